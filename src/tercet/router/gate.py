"""The gate: how many requests may be under way, and who waits for how long."""

from __future__ import annotations

import asyncio
from time import monotonic

from tercet.core.errors import RequestError
from tercet.router.live import Live
from tercet.router.metrics import RouterMetrics
from tercet.routing.admission import FairQueue, Pace, places
from tercet.routing.fleet import FleetState


class Gate:
    """Lets requests for one model in, as many as its ready ranks may have; the others wait, up to a deadline."""

    def __init__(self, fleet: FleetState, metrics: RouterMetrics, model: str, live: Live, processes: int) -> None:
        self._fleet, self._metrics, self._model, self._live = fleet, metrics, model, live
        self._processes = processes
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(_share(live.max_queue, processes))
        self._pace = Pace()
        self._running = 0
        self._limit, self._limit_of = 0, -1  # as of how many changes of the fleet

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self._queue.size

    @property
    def empty(self) -> bool:
        """True when nobody is in or waits."""
        return not self._running and not self._queue.size

    def admit(self) -> bool:
        """Take a place, if there is one and nobody waits for it."""
        if self._queue.size or not self._room():
            return False
        self._running += 1
        return True

    async def enter(self, tenant: str, priority: int, timeout_s: float) -> None:
        """Wait for a place, where `admit` said that there is none. Raises RequestError 429 when too many wait, 503 when
        the wait was too long."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent_away = self._queue.push(tenant, priority, place)
        if sent_away is not None:
            self._metrics.admissions.add("full")
            if not sent_away.done():  # its client may have left this moment
                sent_away.set_exception(self._full())
        try:
            async with asyncio.timeout(timeout_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()  # the place was given in the moment of giving up
            else:
                self._queue.discard(tenant, priority, place)
            if isinstance(error, TimeoutError):
                self._metrics.admissions.add("timeout")
                raise RequestError(
                    503,
                    f"no worker had room within {timeout_s:g} s",
                    code="queue_timeout",
                    retry_after_s=self._pace.wait_s(self._queue.size),
                ) from None
            raise
        self._metrics.admissions.add("waited")

    def leave(self) -> None:
        """Give a place back, and to whom it is due."""
        self._running -= 1
        self._pace.freed(monotonic())
        self.fill()

    def follow_live(self) -> None:
        """Let in and have wait as many as may from now on. Who waits already goes on waiting."""
        self._queue.bound = _share(self._live.max_queue, self._processes)
        self._limit_of = -1
        self.fill()

    def fill(self) -> None:
        """Let those in for whom there is room now."""
        while self._queue.size and self._room():
            place = self._queue.pop()
            if place is not None and not place.done():
                self._running += 1
                place.set_result(None)

    def _room(self) -> bool:
        fleet = self._fleet
        if self._limit_of != fleet.changes:
            live = self._live
            limit = places(fleet, fleet.mode, self._model, live.max_concurrent, hybrid=live.policy.hybrid)
            self._limit, self._limit_of = _share(limit, self._processes), fleet.changes
        return not self._limit or self._running < self._limit  # without a worker it is refused further on, at once

    def _full(self) -> RequestError:
        wait_s = self._pace.wait_s(self._queue.size)
        return RequestError(
            429, "too many requests wait already: try again later", code="queue_full", retry_after_s=wait_s
        )


class Gates:
    """A gate for each model: who waits for one keeps nobody from another. Of several `processes` each has its share of
    the places and of the queue, rounded up. `elsewhere` counts those that wait in others."""

    def __init__(self, fleet: FleetState, metrics: RouterMetrics, live: Live, processes: int) -> None:
        self._fleet, self._metrics, self._live, self._processes = fleet, metrics, live, processes
        self._gates: dict[str, Gate] = {}
        self.elsewhere = 0

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self.elsewhere + sum(gate.waiting for gate in self._gates.values())

    def follow_live(self) -> None:
        """Let in and have wait as many as may from now on."""
        for gate in self._gates.values():
            gate.follow_live()

    def follow_fleet(self) -> None:
        """Let in, in the event loop's next round, who waits for the room that a change of the fleet made: it may be
        long until somebody leaves."""
        for gate in self._gates.values():
            if gate.waiting:
                asyncio.get_running_loop().call_soon(gate.fill)

    def of(self, model: str) -> Gate:
        """Return the gate of a model; names that nobody serves share one. Who names none means the only one."""
        known = self._fleet.known_models
        name = model if model in known else known[0] if not model and len(known) == 1 else ""
        gate = self._gates.get(name)
        if gate is None:
            self._gates = {old: gate for old, gate in self._gates.items() if not gate.empty}
            gate = self._gates[name] = Gate(self._fleet, self._metrics, name, self._live, self._processes)
        return gate


def _share(places: int, processes: int) -> int:
    return -(-places // processes)
