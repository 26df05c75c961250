from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tercet.core.errors import TercetError
from tercet.engine.models.cache import cache_root, exclusive, explain_os_error, new_folder, publish

HOLD = (
    "import sys,time,fcntl; f=open(sys.argv[1],'a'); fcntl.flock(f,fcntl.LOCK_EX); print(1,flush=True); time.sleep(60)"
)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERCET_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "tercet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_root() == tmp_path / "x" / "tercet"
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "t"))
    assert cache_root() == tmp_path / "t"
    assert cache_root(tmp_path / "c") == tmp_path / "c"


def test_a_lock_excludes_another_process_until_it_dies(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        waited: list[str] = []
        with (
            pytest.raises(TercetError, match="another process"),
            exclusive(lock, timeout_s=0.2, progress=lambda what, _: waited.append(what)),
        ):
            pass
        assert waited
        holder.kill()
        with exclusive(lock, timeout_s=5.0):
            pass


def test_a_folder_appears_whole_and_replaces_an_older_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with new_folder(tmp_path, "m") as work:
            (work / "model").mkdir()
            (work / "model" / "file").write_text(content)
            publish(work / "model", tmp_path / "m")
    assert (tmp_path / "m" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o755


def test_a_failure_takes_its_folder_along(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="midway"), new_folder(tmp_path, "m"):
        raise ValueError("midway")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "make room" in str(explain_os_error(full, tmp_path))
    assert "writable" in str(explain_os_error(PermissionError(errno.EACCES, "denied"), tmp_path))


def test_waiting_ends_as_soon_as_the_lock_is_free(tmp_path: Path) -> None:
    start = time.monotonic()
    with exclusive(tmp_path / "lock", timeout_s=60.0):
        pass
    with exclusive(tmp_path / "lock", timeout_s=60.0):
        pass
    assert time.monotonic() - start < 30.0
