"""Cleans up after a launcher that could not: ends what it left, removes its shared segments and its state.

Started by the launcher as `python -m tercet.launch.keeper TOPOLOGY_ID STATE_FOLDER`, in a session of its own. Its
standard input is a pipe that only the launcher holds: lines `add GROUP`, `drop GROUP` and, at a clean end, `bye`. The
pipe's end without a `bye` is the launcher's death, whatever killed it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

from setproctitle import setproctitle

from tercet.launch.groups import kill_groups
from tercet.launch.process import OWN_MODULES

KILL_TIMEOUT_S = 10.0


class Keeper:
    """The launcher's end of the pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, topology_id: str, state_dir: Path, log: int) -> Keeper:
        """Start the keeper; `log` is the file descriptor its complaints go to."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tercet.launch.keeper",
            topology_id,
            str(state_dir),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **OWN_MODULES},
            start_new_session=True,
        )
        return cls(process)

    def add(self, group: int) -> None:
        """Tell it of a process group to end."""
        self._say(f"add {group}")

    def drop(self, group: int) -> None:
        """Tell it that a process group has ended: its number may come to mean another's."""
        self._say(f"drop {group}")

    async def dismiss(self) -> None:
        """Let it go: everything is cleaned up."""
        self._say("bye")
        stdin = self._process.stdin
        if stdin is not None:
            stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), KILL_TIMEOUT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _say(self, line: str) -> None:
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(f"{line}\n".encode())


def keep(lines: TextIO, topology_id: str, state_dir: Path) -> int:
    """Serve one launcher: read its lines to the end, clean up unless it said bye. Return the number of groups left."""
    groups: set[int] = set()
    for line in lines:
        word, _, number = line.strip().partition(" ")
        if word == "bye":
            return 0
        if word == "add":
            groups.add(int(number))
        elif word == "drop":
            groups.discard(int(number))
    from tercet.launch.segments import sweep_all

    # The kernel has killed the leaders already; this is for those who asked for no death signal.
    stubborn = kill_groups(groups, KILL_TIMEOUT_S)
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while not sweep_all(topology_id) and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(state_dir, ignore_errors=True)
    return len(stubborn)


def main() -> int:
    """Outlive every signal that ends the launcher; end with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    setproctitle(f"tercet keeper {sys.argv[1]}")
    return 1 if keep(sys.stdin, sys.argv[1], Path(sys.argv[2])) else 0


if __name__ == "__main__":
    sys.exit(main())
