"""One simulated run: a fleet, a load, and what its users saw."""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

from tercet.core.errors import UsageError
from tercet.core.stage import Stage
from tercet.results.record import RequestRecord, StageBusy
from tercet.results.slo import Slo
from tercet.routing.modes import route
from tercet.sim.client import Client, Connections, SimConversation
from tercet.sim.clock import Clock
from tercet.sim.engine import Engine, Watch
from tercet.sim.fleet import FleetSpec
from tercet.sim.request import SimRequest
from tercet.sim.result import SimCounters, SimFigures, SimulationResult
from tercet.sim.router import Decide, SimRouter
from tercet.sim.talks import simulated, talks_of
from tercet.traffic.spec import TrafficSpec

WARM_UP_AT_ONCE = 8
"""As `tercet bench` warms up."""

Progress = Callable[[int], None]
"""Told how many measured requests are over, every now and then."""

PROGRESS_EVERY = 50


@dataclass(frozen=True, slots=True)
class WorkerLoss:
    """A worker (`P0`, `A1`: by its role, in order) dies `at_s` seconds after the start; it is back `for_s` later, with
    empty caches, or never."""

    worker: str
    at_s: float
    for_s: float | None = None


@contextmanager
def _no_collection() -> Iterator[None]:
    """Have no garbage collected: requests make no cycles, and a large fleet's millions of objects, which live long, are
    far from the processor; to walk over them again and again takes a sixth of the time.

    The fleet itself is a cycle. It goes at the end, while it is young: later it would wait for others that outlive it,
    and whoever simulates again and again had a dozen of them in memory.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.collect(0)
            gc.enable()


@_no_collection()
def simulate(
    fleet: FleetSpec,
    traffic: TrafficSpec,
    *,
    conversations: Iterable[SimConversation] | None = None,
    salt: str = "sim",
    warmup: int = 0,
    records: bool = True,
    token_times: bool = False,
    slo: Slo | None = None,
    losses: Iterable[WorkerLoss] = (),
    decide: Decide = route,
    progress: Progress | None = None,
    watch: Callable[[str], Watch] | None = None,
) -> SimulationResult:
    """Send `traffic` through `fleet` in virtual time, and return what its users saw. Deterministic.

    `traffic` is what `tercet bench` sends: a workload at a rate (open loop) or a concurrency (closed loop), for so many
    requests or seconds, by its seed; `salt` names the run, as there. `conversations` take the place of those that it
    would make; its load, ramp and duration still count. `warmup` requests go ahead, eight at once, unmeasured.

    `records` False keeps no request, only figures: memory is then the same for any number of requests. `token_times`
    keeps every token's time, else a record has its first and its last. `slo` decides which answers are good.
    `losses` are workers that die. `decide` takes the place of the router's modes. `watch(address)` gives what is told
    of each rank's every step. Raises UsageError.
    """
    clock = Clock()
    router = SimRouter(clock, fleet, decide=decide, token_times=token_times, watch=watch)
    recorder = _Recorder(records, slo, progress)
    connections = Connections(router.send, fleet.stack.connections)
    client = Client(clock, connections, recorder.keep)
    tokens = max(pool.device.image_tokens for pool in fleet.pools)
    if conversations is None:
        conversations = simulated(talks_of(traffic, salt), tokens)
    measured = iter(conversations)
    known = {worker.name for worker in fleet.workers}
    deaths = tuple(losses)
    for loss in deaths:
        if loss.worker not in known:
            raise UsageError(f"no worker is called {loss.worker!r}: there are {', '.join(sorted(known))}")

    def begin() -> None:
        recorder.start_s = clock.now
        for loss in deaths:
            clock.after(loss.at_s, router.lose, loss.worker)
            if loss.for_s is not None:
                clock.after(loss.at_s + loss.for_s, router.restore, loss.worker)
        if traffic.concurrency:
            client.closed_loop(measured, traffic.concurrency, ramp_s=traffic.ramp_s, until_s=traffic.duration_s)
        else:
            client.open_loop(measured)

    if warmup:
        _warm_up(clock, connections, traffic, warmup, tokens, salt, begin)
    else:
        begin()
    clock.run()
    return recorder.result(router)


def _warm_up(
    clock: Clock,
    connections: Connections,
    traffic: TrafficSpec,
    requests: int,
    picture_tokens: int,
    salt: str,
    then: Callable[[], None],
) -> None:
    spec = replace(traffic, num_requests=requests, concurrency=WARM_UP_AT_ONCE, duration_s=None, ramp_s=0.0)
    talks = simulated(talks_of(spec, f"{salt}-warm"), picture_tokens, first=1 << 40)
    Client(clock, connections, lambda request: None).closed_loop(talks, WARM_UP_AT_ONCE, on_end=then)


class _Recorder:
    """Counts requests that are over, and keeps their records if wanted."""

    def __init__(self, records: bool, slo: Slo | None, progress: Progress | None) -> None:
        self.start_s = 0.0
        self._slo, self._progress = slo, progress
        self._figures = SimFigures()
        self._turns: dict[int, SimFigures] = {}
        self._records: list[RequestRecord] | None = [] if records else None
        self._done: Iterator[int] = count(1)

    def keep(self, request: SimRequest) -> None:
        """Take in a request that is over."""
        self._figures.add(request, self._slo)
        turn = self._turns.get(request.turn)
        if turn is None:
            turn = self._turns[request.turn] = SimFigures()
        turn.add(request, self._slo)
        if self._records is not None:
            self._records.append(request.record(self.start_s))
        done = next(self._done)
        if self._progress is not None and done % PROGRESS_EVERY == 0:
            self._progress(done)

    def result(self, router: SimRouter) -> SimulationResult:
        """Return all of it."""
        figures = self._figures
        if not figures.requests:
            raise UsageError("the traffic holds no request: give more requests, or a longer duration")
        duration = figures.last_s - figures.first_s
        return SimulationResult(
            figures,
            dict(sorted(self._turns.items())),
            tuple(sorted(self._records or (), key=lambda record: record.sent_s)),
            _counters(router),
            _busy(router, figures.last_s),
            duration,
        )


def _engines(router: SimRouter) -> list[tuple[str, Engine]]:
    now = [(router.fleet.ranks[address].url, engine) for address, engine in router.engines.items()]
    return router.retired + now


def _counters(router: SimRouter) -> SimCounters:
    counts: Counter[str] = Counter()
    for _, engine in _engines(router):
        stats = engine.scheduler.stats()
        counts["prefix_queries"] += stats.prefix_queries
        counts["prefix_hits"] += stats.prefix_hits
        counts["preemptions"] += stats.preemptions
        counts["steps"] += engine.steps
        counts["leapt"] += engine.leapt
        if engine.encoding is not None:
            counts["encoded"] += engine.encoding.encoded
            counts["picture_hits"] += engine.encoding.cache.hits
    network, seen = router.network, router.counts
    return SimCounters(
        **counts,
        transferred_bytes=network.moved,
        transfer_wait_s=network.waited_s,
        mispredictions=seen.mispredictions,
        direct=seen.direct,
        split=seen.split,
        retries=seen.retries,
        picture_named=seen.named_pictures,
    )


def _busy(router: SimRouter, until_s: float) -> tuple[StageBusy, ...]:
    """Return the busy shares of the time until the last request was over: a worker may die, or come back, long after
    it."""
    seconds: defaultdict[tuple[str, Stage], float] = defaultdict(float)
    ranks: Counter[str] = Counter(rank.url for rank in router.fleet.ranks.values())
    for worker, engine in _engines(router):
        for stage, busy in engine.busy_s.items():
            seconds[worker, stage] += busy
    whole = max(until_s, 1e-9)
    return tuple(
        StageBusy(worker, str(stage), busy / ranks[worker] / whole) for (worker, stage), busy in seconds.items() if busy
    )
