"""The roster: workers join and leave while the router runs. Who leaves is drained first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic

from tercet.core.errors import UsageError
from tercet.core.stage import role_letter
from tercet.router.health import Prober
from tercet.router.kv_subscriber import KvSubscriber
from tercet.router.named_worker import joining
from tercet.router.parts import Parts
from tercet.routing.events import RankHealth, WorkerRemoved

log = logging.getLogger(__name__)

LOOK_S = 0.05
CUT_S = 5.0
"""How long requests may take to notice that their worker was cut off."""


class Roster:
    """Adds and removes workers. `draining` holds of each that leaves until when its requests may take. `settle` returns
    when no process sends requests to who is leaving any more, and all under way are counted."""

    def __init__(self, parts: Parts, prober: Prober, kv: KvSubscriber, settle: Callable[[], Awaitable[None]]) -> None:
        self._parts, self._prober, self._kv, self._settle = parts, prober, kv, settle
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.draining: dict[str, float] = {}

    def add(self, text: str, letter: str) -> str:
        """Take a worker in, given as flags give it, by its role; it gets requests once it is proven. Return its URL.
        Raises UsageError for one that is no worker, or here already."""
        parts = self._parts
        joined = joining(text, letter, parts.config.data_parallel_size)
        event = joined.event
        if event.url in parts.fleet.workers:
            gone = "leaving: try again when it has left" if event.url in self.draining else "here already"
            raise UsageError(f"worker {event.url} is {gone}")
        if joined.bootstrap is not None:
            parts.config.make_dialect({event.url: joined.bootstrap})  # or it knows no such ports
        parts.fleet.apply(event)
        if joined.events is not None:
            try:
                self._kv.watch(event.url, joined.events)
            except UsageError:
                parts.fleet.apply(WorkerRemoved(event.url))
                raise
        if joined.bootstrap is not None:
            parts.ports[event.url] = joined.bootstrap
        if joined.fixed:
            parts.pinned.add(event.url)
        self._prober.watch(event.url)
        log.info("worker %s joined", event.url)
        return event.url

    def present(self, text: str, letter: str) -> str | None:
        """Return the URL of a worker, given as flags give it, that is here in that role and stays. Raises
        UsageError."""
        event = joining(text, letter, None).event
        here = self._parts.fleet.workers.get(event.url)
        stays = here is not None and role_letter(here.stages) == letter and event.url not in self.draining
        return event.url if stays else None

    def find(self, name: str) -> str:
        """Return the URL of a worker named by it, or by the label of one of its ranks (`P0`). Raises LookupError."""
        fleet = self._parts.fleet
        url = name.rstrip("/")
        if url in fleet.workers:
            return url
        found = next((rank.url for rank in fleet.ranks.values() if rank.label == name), None)
        if found is None:
            raise LookupError(name)
        return found

    def remove(self, url: str, timeout_s: float) -> None:
        """Send no more requests to a worker, let those under way end for up to `timeout_s`, then forget it. Told again,
        they may have less time, not more."""
        if url in self.draining:
            self.draining[url] = min(self.draining[url], monotonic() + timeout_s)
            return
        if url not in self._parts.fleet.workers:
            return
        self.draining[url] = monotonic() + timeout_s
        self._prober.unwatch(url)
        for rank in list(self._parts.fleet.ranks.values()):
            if rank.url == url:
                self._parts.fleet.apply(RankHealth(rank.address, False))
        log.info("worker %s leaves: no more requests", url)
        self._tasks[url] = asyncio.get_running_loop().create_task(self._drain(url))

    def left_s(self, url: str) -> float | None:
        """Return for how many seconds more a leaving worker's requests may take; None for one that stays."""
        until = self.draining.get(url)
        return None if until is None else round(max(0.0, until - monotonic()), 1)

    async def close(self) -> None:
        """Wait for nobody any more."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _drain(self, url: str) -> None:
        parts = self._parts
        await self._settle()
        if not await self._left(url, lambda: self.draining[url]):
            log.warning("worker %s leaves with %d requests cut off", url, parts.visits[url])
            parts.client.disconnect(url)
            until = monotonic() + CUT_S
            await self._left(url, lambda: until)
        for rank in list(parts.fleet.ranks.values()):
            if rank.url == url:
                parts.breakers.forget(rank.address)
        self._kv.unwatch(url)
        parts.ports.pop(url, None)
        parts.pinned.discard(url)
        if not parts.visits[url]:  # else some were cut off and have not noticed it yet
            parts.visits.pop(url, None)
        parts.fleet.apply(WorkerRemoved(url))
        del self.draining[url], self._tasks[url]
        log.info("worker %s left", url)

    async def _left(self, url: str, until: Callable[[], float]) -> bool:
        """Wait for the end of the last request there; False when it did not come in time."""
        while self._parts.visits[url]:
            if monotonic() >= until():
                return False
            await asyncio.sleep(LOOK_S)
        return True
