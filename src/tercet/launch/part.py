"""One part of a deployment (a worker or the router): started, waited for, and started again when it crashes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tercet.http.client import Client
from tercet.launch.groups import kill_group
from tercet.launch.keeper import Keeper
from tercet.launch.probe import probe
from tercet.launch.process import ChildProcess, LogFile, exit_words
from tercet.launch.progress import LaunchError, OnProgress, Progress, State

POLL_S = 0.1
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
GIVEN_UP_GRACE_S = 1.0
STEADY_S = 60.0
"""A part that was ready for this long has recovered: its next crash starts the backoff anew."""


@dataclass(frozen=True, slots=True)
class PartSpec:
    """What to run. `name` is also its log's; `url` answers `ready_path` with 200 once it can serve, to who shows `key`
    if there is one; `env` is its own.

    A restarted part has come back when it answers `restarted_path`: a router can't be ready while a worker is down.
    """

    name: str
    argv: tuple[str, ...]
    url: str
    ready_path: str = "/ready"
    restarted_path: str = "/ready"
    env: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None


class Part:
    """Owns the process of one part, over all its restarts."""

    def __init__(
        self,
        spec: PartSpec,
        *,
        log_dir: Path,
        env: Mapping[str, str],
        keeper: Keeper,
        client: Client,
        on_progress: OnProgress,
        start_timeout_s: float,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self.spec = spec
        self._log = LogFile(log_dir, spec.name)
        self._env = env
        self._keeper = keeper
        self._client = client
        self._on_progress = on_progress
        self._start_timeout_s = start_timeout_s
        self._backoff_s = backoff_s
        self._child: ChildProcess | None = None
        self._killed = False

    async def start(self) -> None:
        """Start it and return when it is ready. Raises LaunchError with its last log lines; it is not running then."""
        await self._start(self.spec.ready_path)

    async def _start(self, path: str) -> None:
        self._tell("starting")
        try:
            child = await ChildProcess.start(self.spec.argv, log=self._log, env=self._env)
        except OSError as error:  # too many processes or files, no place for its log: that may pass
            raise LaunchError(f"{self.spec.name} could not be started: {error}") from error
        self._child = child
        self._keeper.add(child.pid)
        ended = asyncio.ensure_future(child.wait())
        try:
            await self._until_ready(child, ended, f"{self.spec.url}{path}")
        except BaseException:
            await self.end(GIVEN_UP_GRACE_S)
            raise
        finally:
            ended.cancel()
        self._tell("ready", f"after {time.monotonic() - child.started:.1f} s")

    async def _until_ready(self, child: ChildProcess, ended: asyncio.Future[int], url: str) -> None:
        answer: str | None = "nothing was asked yet"
        while not ended.done():
            left = child.started + self._start_timeout_s - time.monotonic()
            if left <= 0:
                raise self._failure(f"was not ready within {self._start_timeout_s:g} s ({answer})")
            answer = await probe(self._client, url, self.spec.key)
            # Who answers may be a stranger on the port, and our child may have ended because of it.
            if answer is None and not ended.done():
                return
            await asyncio.wait([ended], timeout=min(POLL_S, left))
        raise self._failure(f"ended while starting: {exit_words(ended.result())}")

    async def watch(self, restart: bool) -> None:
        """Restart it after each crash until it is ended. Raises LaunchError at a crash if not `restart`."""
        failures = 0
        while (child := self._child) is not None:
            ready = time.monotonic()
            status = await child.wait()
            await child.clear_group()
            self._forget(child)
            if not restart:
                crash = self._failure(f"crashed: {exit_words(status)}")
                self._tell("failed", str(crash))
                raise crash
            failures = 1 if time.monotonic() - ready > STEADY_S else failures + 1
            failures = await self._restart(f"crashed ({exit_words(status)})", failures)

    async def _restart(self, why: str, failures: int) -> int:
        """Start it again, and again, waiting longer each time; return the failures so far."""
        while True:
            pause = self._backoff_s[min(failures, len(self._backoff_s)) - 1]
            self._tell("crashed", f"{why}; next start in {pause:g} s, log: {self._log.path}")
            await asyncio.sleep(pause)
            try:
                await self._start(self.spec.restarted_path)
            except LaunchError as error:
                failures += 1
                why = str(error).splitlines()[0]
                continue
            return failures

    async def end(self, grace_s: float) -> None:
        """End it, gently for `grace_s` seconds. Does nothing when it is not running."""
        if (child := self._child) is not None:
            await child.end(0.0 if self._killed else grace_s)
            self._forget(child)

    def _forget(self, child: ChildProcess) -> None:
        self._keeper.drop(child.pid)
        if self._child is child:
            self._child = None

    def kill(self) -> None:
        """End it at once, also while `end` is being patient."""
        self._killed = True
        if self._child is not None:
            kill_group(self._child.pid, signal.SIGKILL)

    def _failure(self, what: str) -> LaunchError:
        tail = self._log.tail()
        lines = "".join(f"\n  {line}" for line in tail) if tail else " (its log is empty)"
        return LaunchError(f"{self.spec.name} {what}; the last lines of {self._log.path}:{lines}")

    def _tell(self, state: State, detail: str = "") -> None:
        self._on_progress(Progress(self.spec.name, state, detail))


async def start_all(parts: Sequence[Part]) -> None:
    """Start them together and return when all are ready. At the first failure raise that one alone: none is running
    then, those neither that were ready."""
    starts = [asyncio.ensure_future(part.start()) for part in parts]
    try:
        await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
        for start in starts:
            if start.done():
                start.result()
    except BaseException:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        await asyncio.gather(*(part.end(GIVEN_UP_GRACE_S) for part in parts))
        raise
