"""Engines wired as a configuration says, and the way of a turn through them."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.planner_accuracy.engine import Clock, Engine, Turn, Work

from tercet.core.errors import UsageError
from tercet.engine.scheduler import SchedulerConfig
from tercet.engine.sequence import Sequence
from tercet.latency.oracle import ChosenOracle
from tercet.latency.stack import StackConstants

_PART = re.compile(r"(\d+)(pD|P|D|R|A|E)")


def parse_config(text: str) -> dict[str, int]:
    """Read `2R`, `1P1D`, `1R_1P_1D_1pD`, `1E1P1D`: R or A a replica, pD a decode worker that later turns go straight
    to. Raises UsageError."""
    counts = dict.fromkeys(("R", "P", "D", "pD", "E"), 0)
    rest = _PART.sub("", text).replace("_", "").replace("+", "")
    for number, letter in _PART.findall(text):
        counts["R" if letter == "A" else letter] += int(number)
    decoders = counts["D"] + counts["pD"]
    if rest or (bool(decoders) != bool(counts["P"])) or not (decoders or counts["R"]):
        raise UsageError(f"{text!r} is no configuration: write for instance 2R, 1P1D, 1P_3pD, 1R_1P_1D_1pD, 1E1P1D")
    return counts


@dataclass(slots=True)
class Hosts:
    """A host's workers that fetch and decode pictures: so many at once, the others wait."""

    clock: Clock
    workers: int
    each_s: float
    queue: deque[Callable[[], None]] = field(default_factory=deque)
    active: int = 0

    def do(self, action: Callable[[], None]) -> None:
        """Call `action` when one picture is through."""
        self.queue.append(action)
        self._next()

    def _next(self) -> None:
        while self.queue and self.active < self.workers:
            self.active += 1
            action = self.queue.popleft()
            self.clock.after(self.each_s, lambda action=action: self._done(action))  # type: ignore[misc]

    def _done(self, action: Callable[[], None]) -> None:
        self.active -= 1
        action()
        self._next()


@dataclass(slots=True)
class Encoder:
    """An encode worker: one picture after the other."""

    clock: Clock
    each_s: float
    free_at: float = 0.0

    def encode(self, action: Callable[[], None]) -> None:
        """Call `action` when a picture is encoded."""
        self.free_at = max(self.free_at, self.clock.now) + self.each_s
        self.clock.after(self.free_at - self.clock.now, action)


class Fleet:
    """A configuration's engines. Conversations keep the workers that they were given: at random, as a hash does, or,
    when `balanced`, where the fewest tokens are under way. A later turn with `direct_below` new tokens or more goes
    through a prefill worker even where the decode worker could do without."""

    def __init__(
        self,
        clock: Clock,
        config: str,
        chosen: ChosenOracle,
        stack: StackConstants,
        *,
        seed: int,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        balanced: bool = False,
        direct_below: int = 1 << 30,
    ) -> None:
        self.clock, self.stack, self._chosen, self._balanced = clock, stack, chosen, balanced
        self._direct_below = direct_below
        self._held: dict[int, int] = {}
        self._random = random.Random(seed)
        counts = parse_config(config)
        oracle = chosen.oracle.slowed(stack.scale)
        scheduler = SchedulerConfig(
            num_blocks=oracle.kv_capacity() // 16,
            block_size=16,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=131072,
            lease_s=1e9,
        )

        def engines(count: int) -> list[Engine]:
            return [Engine(clock, oracle, scheduler) for _ in range(count)]

        self.replicas, self.prefills = engines(counts["R"]), engines(counts["P"])
        self.decodes = engines(counts["D"] + counts["pD"])
        self._direct = {id(engine) for engine in self.decodes[counts["D"] :]}
        for engine in self.decodes:
            engine.stall_s = stack.hop_stall_ms / 1e3
            engine.fetch_s = lambda sequence, engine=engine: self._hop_s(sequence, engine)  # type: ignore[misc]
        each_s, host_s = oracle.encode(1) / 1e3, stack.image_host_ms / 1e3
        self.encoders = [Encoder(clock, each_s) for _ in range(counts["E"])]
        hosts = counts["E"] or counts["R"] + counts["P"]
        self.hosts = [Hosts(clock, stack.image_host_workers, host_s) for _ in range(hosts)]
        self._places: dict[int, tuple[Engine | None, Engine]] = {}
        self._under_way: dict[int, int] = {}

    def send(self, turn: Turn, on_first: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Take a turn in."""
        prefill, decode = self._place(turn)
        new = turn.length - self._held.get(turn.number, 0)
        self._held[turn.number] = turn.length + turn.output
        self._under_way[id(decode)] = self._under_way.get(id(decode), 0) + new

        def ended() -> None:
            self._under_way[id(decode)] -= new
            on_end()

        def start() -> None:
            if straight or prefill is None:
                decode.add(Work(turn, lambda sequence: on_first(), ended))
                return
            held = prefill

            def decoding(sequence: Sequence) -> None:
                held.release(turn.name)
                on_first()

            handed = Work(turn, decoding, ended)
            held.add(Work(turn, lambda sequence: None, lambda: decode.add(handed, ticket=True)), hold=True)

        straight = prefill is None or (turn.turn > 1 and id(decode) in self._direct and new < self._direct_below)
        idle = not (decode if straight or prefill is None else prefill).busy
        before_ms = self.stack.per_request_ms + idle * self.stack.idle_ms
        self.clock.after(before_ms / 1e3, lambda: self._see(turn, prefill or decode, start))

    def place_of(self, turn: Turn) -> Engine:
        """Return the engine that decodes a conversation."""
        return self._place(turn)[1]

    def _see(self, turn: Turn, engine: Engine, start: Callable[[], None]) -> None:
        """Fetch and encode the turn's pictures, then go on."""
        left = turn.images
        if not left:
            start()
            return

        def one_less() -> None:
            nonlocal left
            left -= 1
            if not left:
                start()

        for picture in range(turn.images):
            if self.encoders:
                index = (turn.number + picture) % len(self.encoders)
                encoder, hop_s = self.encoders[index], self.stack.embedding_hop_ms / 1e3
                arrived = lambda hop_s=hop_s: self.clock.after(hop_s, one_less)  # noqa: E731
                self.hosts[index].do(lambda encoder=encoder, arrived=arrived: encoder.encode(arrived))  # type: ignore[misc]
            else:
                index = (self.replicas + self.prefills).index(engine)
                self.hosts[index].do(lambda: self._encode_here(engine, one_less))

    def _encode_here(self, engine: Engine, after: Callable[[], None]) -> None:
        engine.pictures += 1
        after()

    def _place(self, turn: Turn) -> tuple[Engine | None, Engine]:
        known = self._places.get(turn.number)
        if known is None:
            spots = [*self.replicas, *self.decodes]
            if self._balanced:
                engine = min(spots, key=lambda each: self._under_way.get(id(each), 0))
            else:
                engine = self._random.choice(spots)
            prefill = self._random.choice(self.prefills) if any(engine is each for each in self.decodes) else None
            if prefill is not None and self._balanced:
                prefill = self.prefills[turn.number % len(self.prefills)]
            known = self._places[turn.number] = (prefill, engine)
        return known

    def _hop_s(self, sequence: Sequence, receiver: Engine) -> float:
        moved = self._chosen.oracle.kv_bytes(sequence.prompt_len - sequence.computed) / self._chosen.link_bytes_s
        busy = self.stack.hop_busy_ms if receiver.decoding else 0.0
        return max(self.stack.hop_ms + busy - self.stack.hop_stall_ms, 0.0) / 1e3 + moved
