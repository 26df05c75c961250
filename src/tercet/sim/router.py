"""The router on a virtual clock: real decisions, real fleet state, simulated legs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import count

from tercet.core.route import Rank, Route
from tercet.core.stage import Mode, Stage
from tercet.engine.sequence import Sequence
from tercet.latency.stack import StackConstants
from tercet.routing import events as e
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.modes import route
from tercet.routing.policy import Policy
from tercet.routing.refusal import Refusal
from tercet.sim.clock import Clock
from tercet.sim.encoding import EmbeddingCache, EncodeQueue, ImageHost
from tercet.sim.engine import Engine, Watch
from tercet.sim.fleet import FleetSpec, WorkerPool
from tercet.sim.journey import Journey
from tercet.sim.network import Network, Places
from tercet.sim.request import SimRequest
from tercet.sim.token_times import TokenTimes

Decide = Callable[[Mode, RequestFacts, FleetState, Policy, Collection[str]], Route | Refusal]
"""What `routing.modes.route` is."""


@dataclass(slots=True)
class RouterCounts:
    """What the router counted: requests on a route that held less than believed, tries after a worker was lost, and
    requests by kind of route."""

    mispredictions: int = 0
    retries: int = 0
    direct: int = 0
    split: int = 0
    named_pictures: int = 0


class SimRouter:
    """Sends requests through a fleet of simulated engines.

    `decide` takes the place of the modes where another router is imitated. `token_times`: every token's time is kept.
    """

    def __init__(
        self,
        clock: Clock,
        spec: FleetSpec,
        *,
        decide: Decide = route,
        token_times: bool = False,
        watch: Callable[[str], Watch] | None = None,
    ) -> None:
        self.clock, self.spec, self.decide = clock, spec, decide
        self.stack: StackConstants = spec.stack
        self.fleet = FleetState()
        self.engines: dict[str, Engine] = {}
        self.retired: list[tuple[str, Engine]] = []
        self.hosts: dict[str, ImageHost] = {}
        self.pools: dict[str, WorkerPool] = {}
        self.counts = RouterCounts()
        self.places = Places(spec.max_unaccepted_handoffs)
        self.network = Network(spec.link_bytes_s or min(pool.device.link_bytes_s for pool in spec.pools))
        self.names: Iterator[int] = count()
        self.live: dict[str, Journey] = {}
        self._token_times, self._watch = token_times, watch
        self.fleet.apply(e.ModeChanged(spec.mode))
        workers = iter(spec.workers)
        for pool in spec.pools:
            for _ in range(pool.count):
                worker = next(workers)
                self.pools[worker.name] = pool
                self.fleet.apply(e.WorkerAdded(worker.name, pool.stages, pool.ranks))
                self.hosts[worker.name] = ImageHost(
                    clock, self.stack.image_host_workers, self.stack.image_host_ms / 1e3
                )
        for rank in self.fleet.ranks.values():
            self._start(rank)

    def send(self, request: SimRequest) -> None:
        """Take a request in."""
        Journey(self, request).begin()

    def lose(self, worker: str) -> None:
        """Have a worker die: what it was doing is lost, and it gets no request before `restore`."""
        lost = {rank.address for rank in self._ranks(worker)}
        for address in lost:
            self.engines[address].die()
            self.fleet.apply(e.RankRestarted(address))
        for journey in list(self.live.values()):
            journey.lost(lost)

    def restore(self, worker: str) -> None:
        """Have a lost worker come back, with empty caches."""
        for rank in self._ranks(worker):
            self.retired.append((rank.url, self.engines[rank.address]))
            self._start(rank)

    def _ranks(self, worker: str) -> list[Rank]:
        return [rank for rank in self.fleet.ranks.values() if rank.url == worker]

    def _start(self, rank: Rank) -> None:
        pool = self.pools[rank.url]
        oracle = pool.device.oracle.slowed(self.stack.scale)
        config = pool.caps.scheduler(oracle.kv_capacity())
        address = rank.address
        self.engines[address] = Engine(
            self.clock,
            oracle,
            config,
            fetch_s=lambda sequence: self._hop_s(sequence, address),
            reachable=self._reachable,
            encoding=EncodeQueue(EmbeddingCache(pool.caps.embedding_tokens)) if Stage.ENCODE in pool.stages else None,
            stall_s=self._stall_s,
            times=TokenTimes() if self._token_times else None,
            watch=self._watch(address) if self._watch is not None else None,
            stretch=self._beside_others if self.stack.neighbour else None,
        )
        tokens = config.num_blocks * config.block_size
        self.fleet.apply(e.CacheSized(address, tokens, pool.caps.embedding_tokens))
        self.fleet.apply(e.RankHealth(address, True))
        for other in self.fleet.ranks.values():
            if rank.letter == "P" and other.letter == "D":
                self.fleet.apply(e.PairHealth(address, other.address, True))
            elif rank.letter == "D" and other.letter == "P":
                self.fleet.apply(e.PairHealth(other.address, address, True))

    def _beside_others(self) -> float:
        """Return how much longer a step takes that begins now, beside all workers that compute."""
        return 1.0 + self.stack.neighbour * sum(engine.alive and engine.busy for engine in self.engines.values())

    def _stall_s(self, sequence: Sequence) -> float:
        """Return for how long the receiver computes nothing while it takes in the KV that a ticket names."""
        stack = self.stack
        if not stack.hop_stall_ms and not stack.hop_token_ms:
            return 0.0
        return (stack.hop_stall_ms + (sequence.prompt_len - sequence.computed) * stack.hop_token_ms) / 1e3

    def _hop_s(self, sequence: Sequence, receiver: str) -> float:
        """Return how long the KV that a ticket names is on its way, before it is taken in."""
        assert sequence.ticket is not None
        stack, engine = self.stack, self.engines[receiver]
        nbytes = self.pools[self.fleet.ranks[receiver].url].device.oracle.kv_bytes(
            sequence.prompt_len - sequence.computed
        )
        moving_s = self.network.send_s(self.clock.now, sequence.ticket.engine_id, receiver, nbytes)
        busy_ms = stack.hop_busy_ms if stack.hop_busy_ms and engine.decoding else 0.0
        return max(stack.hop_ms + busy_ms - stack.hop_stall_ms, 0.0) / 1e3 + moving_s

    def _reachable(self, sequence: Sequence) -> bool:
        journey = self.live.get(sequence.id)
        return journey is not None and journey.source_lives
