"""Keeps the roster as the sources say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tercet.core.errors import TercetError, UsageError
from tercet.core.stage import Mode
from tercet.router.discovery.source import DiscoveryError, Source
from tercet.router.roster import Roster

log = logging.getLogger(__name__)


class Discovery:
    """Looks at every source, again and again. A worker that a source names no more leaves, drained; those of others,
    and those that flags or an operator named, are none of its business. `set_mode` raises TercetError."""

    def __init__(
        self,
        sources: Sequence[Source],
        roster: Roster,
        set_mode: Callable[[Mode], None],
        interval_s: float,
        drain_timeout_s: float,
    ) -> None:
        self._sources, self._roster, self._set_mode = sources, roster, set_mode
        self._interval_s, self._drain_timeout_s = interval_s, drain_timeout_s
        self._joined: dict[str, dict[tuple[str, str], str]] = {source.name: {} for source in sources}
        self._modes: dict[str, Mode | None] = {}
        self._said: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look."""
        self._tasks = [asyncio.get_running_loop().create_task(self._watch(source)) for source in self._sources]

    async def close(self) -> None:
        """Stop looking."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for source in self._sources:
            await source.close()

    async def _watch(self, source: Source) -> None:
        while True:
            await self.look(source)
            await asyncio.sleep(self._interval_s)

    async def look(self, source: Source) -> None:
        """Look once, and have those join and leave that did."""
        try:
            found = await source.look()
        except DiscoveryError as error:
            self._say(source.name, f"{error}; the workers stay as they are")
            return
        problems = []
        joined = self._joined[source.name]  # the worker as named, and its role -> its URL
        for named in joined.keys() - found.workers.items():
            self._roster.remove(joined.pop(named), self._drain_timeout_s)
        for named in found.workers.items():
            if named not in joined:
                try:
                    joined[named] = self._roster.add(*named)
                except UsageError as error:
                    problems.append(str(error))
        if found.mode is not None and found.mode is not self._modes.get(source.name):
            try:
                self._set_mode(found.mode)
                self._modes[source.name] = found.mode
            except TercetError as error:
                problems.append(str(error))
        self._say(source.name, "; ".join(problems))

    def _say(self, name: str, problem: str) -> None:
        if problem and self._said.get(name) != problem:
            log.warning("%s: %s", name, problem)
        self._said[name] = problem
