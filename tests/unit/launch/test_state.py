from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.launch.state import RunDir, RunState, default_log_dir, default_run_root, find_running, running
from tercet.launch.stopping import stop_deployment


def state_of(run_dir: RunDir, pid: int = 0) -> RunState:
    return RunState(
        name=run_dir.name,
        topology_id=run_dir.topology_id,
        pid=pid or os.getpid(),
        phase="ready",
        url="http://127.0.0.1:1",
        shape="1A",
        mode="aggregated",
        model="m",
        log_dir="/nowhere",
        started_at=time.time(),
        workers=(("worker-0", "http://127.0.0.1:2"),),
    )


def test_a_claimed_name_is_found_until_it_is_released(tmp_path: Path) -> None:
    root = tmp_path / "run"
    run_dir = RunDir.claim(root, "one")
    assert running(root) == [], "claimed, but nothing said yet"
    state = state_of(run_dir)
    run_dir.write(state)
    assert running(root) == [state]
    assert find_running(root, None) == find_running(root, "one") == state
    run_dir.release()
    run_dir.release()
    assert running(root) == []
    with pytest.raises(UsageError, match="nothing is running"):
        find_running(root, None)


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    dirs = [RunDir.claim(tmp_path / "run", "one") for _ in range(3)]
    assert [run_dir.name for run_dir in dirs] == ["one", "one-2", "one-3"]
    assert len({run_dir.topology_id for run_dir in dirs}) == 3
    for run_dir in dirs:
        run_dir.write(state_of(run_dir))
    with pytest.raises(UsageError, match="name one: one, one-2, one-3"):
        find_running(tmp_path / "run", None)
    with pytest.raises(UsageError, match="no deployment 'two' is running; running: one, one-2"):
        find_running(tmp_path / "run", "two")
    for run_dir in dirs:
        run_dir.release()


def test_what_a_dead_launcher_left_is_cleaned_up(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_state import RunDir, state_of
run_dir = RunDir.claim(Path({str(tmp_path / "run")!r}), "one")
run_dir.write(state_of(run_dir))
open(f"/dev/shm/tercet.{{run_dir.topology_id}}.left", "w").write("x")
print(run_dir.topology_id, flush=True)
os._exit(0)
"""
    topology_id = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert (tmp_path / "run" / topology_id).exists()
    assert running(tmp_path / "run") == []
    assert not (tmp_path / "run" / topology_id).exists()
    assert not Path(f"/dev/shm/tercet.{topology_id}.left").exists()


def test_a_strange_folder_beside_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / "my-logs").mkdir()
    assert running(tmp_path / "run") == []
    RunDir.claim(tmp_path / "run", "one").release()
    assert (tmp_path / "run" / "my-logs").is_dir()


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(UsageError, match="mode 0700"):
        RunDir.claim(tmp_path / "run", "one")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="mode 0700"):
        RunDir.claim(tmp_path / "link", "one")


def test_state_and_private_files_are_this_users_alone(tmp_path: Path) -> None:
    run_dir = RunDir.claim(tmp_path / "run", "one")
    run_dir.write(state_of(run_dir))
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in run_dir.path.iterdir())
    run_dir.release()


def test_a_launcher_that_does_not_react_is_killed(tmp_path: Path) -> None:
    code = f"""
import signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_state import RunDir, state_of
signal.signal(signal.SIGTERM, signal.SIG_IGN)
run_dir = RunDir.claim(Path({str(tmp_path / "run")!r}), "one")
run_dir.write(state_of(run_dir))
print("up", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.readline()
        state = find_running(tmp_path / "run", "one")
        assert state.pid == launcher.pid
        assert stop_deployment(tmp_path / "run", state, timeout_s=0.3) is False
        assert launcher.wait(30) == -9
    assert stop_deployment(tmp_path / "run", state, timeout_s=0.3) is True, "gone already"


def test_default_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    assert default_run_root() == Path("/run/user/7/tercet")
    assert default_log_dir("one") == Path("/home/x/state/tercet/one")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_run_root() == Path(f"/tmp/tercet-{os.getuid()}")
    assert default_log_dir("one") == Path.home() / ".local/state/tercet/one"


@pytest.mark.parametrize("root", ["/proc/nowhere/tercet", f"/tmp/{'a' * 300}/tercet"])
def test_a_place_that_can_not_be_used_is_named(root: str) -> None:
    with pytest.raises(UsageError, match=r"tercet, which says what is running, can't be used: .*; set XDG_RUNTIME_DIR"):
        RunDir.claim(Path(root), "one")


def test_who_may_not_look_where_it_is_said_what_runs_is_told_so() -> None:
    with pytest.raises(UsageError, match="can't be used: File name too long; set XDG_RUNTIME_DIR to a folder of yours"):
        running(Path(f"/tmp/{'a' * 300}/tercet"))
    assert running(Path("/dev/null/tercet")) == []


def test_a_full_disk_is_named_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(UsageError, match=r"can't write .*state.json: File too large"):
            RunDir.claim(tmp_path / "run", "one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert running(tmp_path / "run") == []


def test_a_lock_is_dropped_though_the_root_was_taken_away(tmp_path: Path) -> None:
    run_dir = RunDir.claim(tmp_path / "run", "one")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    before = len(os.listdir("/proc/self/fd"))
    run_dir.release()
    assert len(os.listdir("/proc/self/fd")) == before - 1
