"""One child process: in a session of its own, killed by the kernel with its launcher, its output in a log file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tercet.launch import child
from tercet.launch.groups import kill_group, members

OWN_MODULES = {"PYTHONSAFEPATH": "1"}
"""For the environment of `python -m`, which would import from the folder that we are in first: a random.py there, a
clone of vllm, or what another user has put into /tmp."""
TAIL_LINES = 15
TAIL_BYTES = 16 * 1024
GONE_TIMEOUT_S = 5.0
"""How long the kernel may take to tear down a killed group (its memory, not its manners)."""


class LogFile:
    """The log of one part: former runs' text is kept in NAME.log.1."""

    def __init__(self, folder: Path, part: str) -> None:
        self.path = folder / f"{part}.log"
        self._since = 0
        if self.path.exists():
            self.path.replace(self.path.with_suffix(".log.1"))

    def open(self) -> int:
        """Return a descriptor that appends; `tail` will look at what comes after. The folder may have been tidied away
        since the last start. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._since = os.fstat(fd).st_size
        return fd

    def tail(self) -> list[str]:
        """Return the last lines since `open`; none of a log that somebody has taken away."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._since, size - TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]


class ChildProcess:
    """A running child and its process group. Start it in the thread whose end shall be its end: the event loop's."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.started = time.monotonic()

    @classmethod
    async def start(cls, argv: Sequence[str], *, log: LogFile, env: Mapping[str, str]) -> ChildProcess:
        """Start `argv` with stdout and stderr in the log. Raises OSError."""
        output = log.open()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                child.__file__,
                str(os.getpid()),
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
            )
        finally:
            os.close(output)
        return cls(process)

    async def wait(self) -> int:
        """Return the exit status; a signal's number negated when one ended it."""
        return await self._process.wait()

    async def end(self, grace_s: float) -> None:
        """Ask it to end; kill its whole group when it has not within `grace_s`, and what it left behind in any case."""
        if self._process.returncode is None:
            kill_one(self.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), grace_s)
            except TimeoutError:
                kill_group(self.pid, signal.SIGKILL)
                await self._process.wait()
        await self.clear_group()

    async def clear_group(self) -> None:
        """Kill what the ended child left in its group (its engines) and wait until that is gone."""
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while members(self.pid) and time.monotonic() < deadline:
            kill_group(self.pid, signal.SIGKILL)
            await asyncio.sleep(0.01)


def kill_one(pid: int, number: signal.Signals) -> bool:
    """Signal one process; False when it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def exit_words(status: int) -> str:
    """Return an exit status in words: `exit status 3`, `killed by SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
