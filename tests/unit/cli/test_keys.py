from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tercet.core.api_keys import KeyRing, key_lines


def _keys(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tercet", "keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    made = _keys("new", str(file), "--name", "alice", "--requests-per-minute", "60", "--concurrent", "4")
    key = made.stdout.strip()
    assert made.returncode == 0 and key.startswith("tk-")
    assert key not in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    file.write_text("# ours\n" + file.read_text())
    admin = _keys("new", str(file), "--admin").stdout.strip()

    ring = KeyRing(key_lines(file.read_text()))
    found = ring.find(f"Bearer {key}")
    assert (found.name, found.requests_per_minute, found.concurrent, found.admin) == ("alice", 60, 4, False)
    assert ring.find(f"Bearer {admin}").admin

    listed = _keys("list", str(file)).stdout
    assert "alice" in listed and "requests_per_minute=60" in listed and "key-1" in listed and "admin" in listed
    assert found.digest not in listed

    twice = _keys("new", str(file), "--name", "alice")
    assert twice.returncode == 2 and "already" in twice.stderr
    assert _keys("revoke", str(file), "alice").returncode == 0
    assert "# ours" in file.read_text() and len(key_lines(file.read_text())) == 1
    gone = _keys("revoke", str(file), "alice")
    assert gone.returncode == 2 and "no key named 'alice'" in gone.stderr
    last = _keys("revoke", str(file), "key-1")
    assert last.returncode == 2 and "stand open" in last.stderr and len(key_lines(file.read_text())) == 1


def test_a_file_that_is_not_there_has_no_keys_to_list(tmp_path: Path) -> None:
    done = _keys("list", str(tmp_path / "keys.txt"))
    assert (done.returncode, done.stdout) == (2, "") and "there is no" in done.stderr and "keys new" in done.stderr


def test_a_key_that_is_there_twice_is_listed_twice(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("secret-1\nsecret-2\nsecret-1\n")
    done = _keys("list", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["line-1", "line-2", "line-3"]
    assert done.stdout.splitlines()[2].endswith("the same key as line-1")


def test_who_could_read_the_file_still_can_after_a_change_also_behind_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "keys.txt", tmp_path / "elsewhere" / "link.txt"
    for name in ("alice", "bob"):
        assert _keys("new", str(file), "--name", name).returncode == 0
    file.chmod(0o640)
    if os.getuid() == 0:
        os.chown(file, 1234, 2345)
    before = file.stat()
    link.parent.mkdir()
    link.symlink_to(file)
    assert _keys("revoke", str(link), "alice").returncode == 0
    assert link.is_symlink() and "alice" not in file.read_text() and "bob" in file.read_text()
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
