"""Keeps the roster as the sources say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tercet.core.errors import TercetError, UsageError
from tercet.core.faults import whence
from tercet.core.stage import Mode
from tercet.router.discovery.source import DiscoveryError, Found, Source
from tercet.router.parts import Parts
from tercet.router.roster import Roster

log = logging.getLogger(__name__)


class Discovery:
    """Looks at every source, again and again. A worker that a source names no more leaves, drained; those of others,
    and those that flags or an operator named and no source does, are none of its business. `set_mode` raises
    TercetError."""

    def __init__(
        self, sources: Sequence[Source], parts: Parts, roster: Roster, set_mode: Callable[[Mode], None]
    ) -> None:
        self._sources, self._parts, self._roster, self._set_mode = sources, parts, roster, set_mode
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
            try:
                await self.look(source)
            except Exception as error:  # noqa: BLE001 - the boundary: who stops looking would never say so
                self._say(source.name, f"it can't be followed: {whence(error)}")
            await asyncio.sleep(self._parts.config.discovery_interval_s)

    async def look(self, source: Source) -> None:
        """Look once, and have those join and leave that did."""
        try:
            found = await source.look()
        except DiscoveryError as error:
            self._say(source.name, f"{error}; the workers stay as they are")
            return
        problems = [found.refused] if found.refused else []
        changed = self._follow_settings(found, problems)
        joined = self._joined[source.name]  # the worker as named, and its role -> its URL
        for named in joined.keys() - found.workers.items():
            self._roster.remove(joined.pop(named), self._parts.live.drain_timeout_s)
            changed = True
        for named in found.workers.items():
            if named not in joined:
                try:
                    joined[named] = self._adopted(*named) or self._roster.add(*named)
                    changed = True
                except UsageError as error:
                    problems.append(str(error))
        if found.mode is not None and found.mode is not self._modes.get(source.name):
            try:
                self._set_mode(found.mode)
                self._modes[source.name] = found.mode
                changed = True
            except TercetError as error:
                problems.append(str(error))
        if changed:
            log.info("%s: what it says now is followed", source.name)
            self._parts.metrics.reloads.add("followed")
        self._say(source.name, "; ".join(problems))

    def _follow_settings(self, found: Found, problems: list[str]) -> bool:
        """Take over the settings of a source that has some; return whether that changed any."""
        if found.settings is None:
            return False
        parts = self._parts
        try:
            changed = parts.live.take(parts.config, found.settings)
        except UsageError as error:
            problems.append(str(error))
            return False
        if changed:
            parts.follow_live()
        return changed

    def _adopted(self, text: str, letter: str) -> str | None:
        """Return the URL of a worker that flags or an operator named before this source did: it is the source's now."""
        url = self._roster.present(text, letter)
        return None if url is None or any(url in joined.values() for joined in self._joined.values()) else url

    def _say(self, name: str, problem: str) -> None:
        if problem and self._said.get(name) != problem:
            log.warning("%s: %s", name, problem)
            self._parts.metrics.reloads.add("refused")
        self._said[name] = problem
