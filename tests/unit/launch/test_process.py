from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.launch import child
from tercet.launch.groups import kill_groups, members
from tercet.launch.process import TAIL_LINES, ChildProcess, LogFile, exit_words

SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]


async def up(log: LogFile) -> None:
    for _ in range(200):
        if log.tail():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never spoke")


async def test_a_child_has_a_session_of_its_own_and_ends_when_asked(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "one")
    process = await ChildProcess.start(SLEEP, log=log, env=dict(os.environ))
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    await up(log)
    await process.end(5.0)
    assert await process.wait() == -signal.SIGTERM
    assert log.tail() == ["up"]


async def test_what_a_dead_child_leaves_in_its_group_is_killed(tmp_path: Path) -> None:
    code = f"import subprocess; subprocess.Popen({SLEEP!r}); print('gone', flush=True)"
    log = LogFile(tmp_path, "one")
    process = await ChildProcess.start([sys.executable, "-S", "-c", code], log=log, env=dict(os.environ))
    assert await process.wait() == 0
    assert len(members(process.pid)) == 1
    await process.end(5.0)
    assert members(process.pid) == []


def test_the_wrapper_refuses_to_start_for_a_dead_launcher() -> None:
    argv = [sys.executable, "-I", "-S", child.__file__, "1", sys.executable, "-c", "print('started')"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_wrapper_is_cheap() -> None:
    """Not much dearer than a Python that does nothing, in CPU time: others may have the core meanwhile."""
    python = [sys.executable, "-I", "-S"]
    commands = {"nothing": [*python, "-c", "0"], "wrapper": [*python, child.__file__, str(os.getpid()), "/bin/true"]}
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(8):
        for name, command in commands.items():
            before = os.times()
            subprocess.run(command, check=True, timeout=60)
            after = os.times()
            spent[name].append(
                after.children_user - before.children_user + after.children_system - before.children_system
            )
    assert sum(spent["wrapper"]) < 3 * sum(spent["nothing"]) + 0.1, spent


def test_only_what_came_since_the_last_start_is_shown(tmp_path: Path) -> None:
    (tmp_path / "one.log").write_text("of a former run\n")
    log = LogFile(tmp_path, "one")
    assert (tmp_path / "one.log.1").read_text() == "of a former run\n"
    for text in ("first start\n", "".join(f"line {i}\n\n" for i in range(100))):
        fd = log.open()
        os.write(fd, text.encode())
        os.close(fd)
    assert log.tail() == [f"line {i}" for i in range(100 - TAIL_LINES, 100)]


def test_groups_are_killed_and_zombies_do_not_count() -> None:
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        assert members(process.pid) == [process.pid]
        assert kill_groups([process.pid, 2**22 + 1], timeout_s=5.0) == []
        assert members(process.pid) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")],
)
def test_exit_words(status: int, words: str) -> None:
    assert exit_words(status) == words
