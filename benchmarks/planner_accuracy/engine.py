"""One engine on a virtual clock: the real scheduler, and an oracle's time for every step."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tercet.core.sampling import SampledToken, SamplingParams
from tercet.core.ticket import Ticket
from tercet.engine.scheduler import Scheduler, SchedulerConfig
from tercet.engine.sequence import Batch, Fetch, Output, Sequence
from tercet.engine.virtual_executor import step_ms
from tercet.latency.oracle import LatencyOracle

BLOCK = 16
SPAN = 1 << 17
"""Token numbers of one conversation, so that no two share a block; there are 32 bits of them, for 32,000."""


class Clock:
    """Events by time, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers: Iterator[int] = itertools.count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` so much later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), action))

    def next_at(self) -> float:
        """Return the time of the next event; infinite when there is none."""
        return self._events[0][0] if self._events else float("inf")

    def run(self) -> None:
        """Let time pass until nothing is left to happen."""
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()


@dataclass(slots=True)
class Turn:
    """One request: `length` prompt tokens of conversation `number`, `output` tokens wanted. Times in seconds.

    The first `shared` tokens are those of every third conversation, as three pictures that take turns make them.
    `sent` is when the client wanted to send, before it had a connection; `first` and `done` what it saw.
    """

    number: int
    length: int
    output: int
    turn: int = 1
    images: int = 0
    shared: int = 0
    sent: float = 0.0
    first: float = 0.0
    done: float = 0.0

    @property
    def name(self) -> str:
        """Its name in schedulers."""
        return f"{self.number}.{self.turn}"

    def tokens(self, length: int) -> list[int]:
        """Return the first tokens of the conversation: the same in every turn, and its own but for the shared ones."""
        own = range(self.number * SPAN, self.number * SPAN + length)
        if not self.shared:
            return list(own)
        common = (1 << 32) - (self.number % 3 + 1) * SPAN
        return [*range(common, common + self.shared), *own[self.shared :]]


@dataclass(slots=True)
class Work:
    """A turn in one engine: called back at its first token and at its end."""

    turn: Turn
    on_first: Callable[[Sequence], None]
    on_end: Callable[[], None]
    started: bool = False


@dataclass(slots=True)
class Engine:
    """A rank. `fetch_s` answers how long the transfer of a ticket's KV takes, before the engine takes it in, which
    stalls it for `stall_s`."""

    clock: Clock
    oracle: LatencyOracle
    config: SchedulerConfig
    fetch_s: Callable[[Sequence], float] = lambda sequence: 0.0
    scheduler: Scheduler = field(init=False)
    work: dict[str, Work] = field(default_factory=dict)
    decoding: dict[str, Sequence] = field(default_factory=dict)
    stall_s: float = 0.0
    arrived: deque[Fetch] = field(default_factory=deque)
    pictures: int = 0
    busy: bool = False

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.config)

    def add(self, work: Work, *, hold: bool = False, ticket: bool = False) -> None:
        """Queue a turn: to prefill and hold, to decode what another prefilled, or both here."""
        turn = work.turn
        tokens = turn.tokens(turn.length)
        carried = None
        if ticket:
            first = SampledToken(turn.number * SPAN + turn.length)
            blocks = tuple(range(-(-turn.length // BLOCK)))
            carried = Ticket("t", "p", 0, "f", BLOCK, tuple(tokens), blocks, first, 0, "", {}, 60.0, 0.0)
            tokens = [*tokens, first.token]
        sequence = Sequence(turn.name, tokens, turn.length, SamplingParams(turn.output, ignore_eos=True),
                            self.clock.now, b"", hold=hold, ticket=carried)  # fmt: skip
        self.work[turn.name] = work
        self.scheduler.add(sequence)
        self.kick()

    def release(self, name: str) -> None:
        """Let go of what is held for a decode worker."""
        self.scheduler.release(name)
        self.kick()

    def kick(self) -> None:
        """Begin a step, or as many uneventful ones as there is time for, unless one is under way."""
        if self.busy:
            return
        if self.arrived:
            fetch = self.arrived.popleft()
            self.busy = True
            self.clock.after(self.stall_s, lambda: self._taken_in(fetch))
            return
        steps = self.scheduler.uneventful_steps()
        if steps > 1 and self.decoding and not self.pictures:
            batch = len(self.decoding)
            context = sum(len(sequence.tokens) - 1 for sequence in self.decoding.values()) / batch
            room = self.clock.next_at() - self.clock.now
            steps = int(min(steps, room * 1e3 / self.oracle.decode(batch, context)))
            while steps > 1 and (took := self.oracle.decode_run(batch, context, steps) / 1e3) >= room:
                steps = min(int(steps * room / took), steps - 1)
            if steps > 1:
                self.busy = True
                self.clock.after(took, lambda: self._leapt(steps))
                return
        plan = self.scheduler.schedule(self.clock.now)
        for fetch in plan.fetches:
            self.clock.after(self.fetch_s(fetch.sequence), lambda fetch=fetch: self._fetched(fetch))  # type: ignore[misc]
        if plan.batch.chunks:
            self.busy = True
            encoding = self.oracle.encode(self.pictures) if self.pictures else 0.0
            self.pictures = 0
            took = (step_ms(self.oracle, plan.batch) + encoding) / 1e3
            self.clock.after(took, lambda: self._stepped(plan.batch))

    def _leapt(self, steps: int) -> None:
        self.scheduler.advance(steps, _next_tokens)
        self.busy = False
        self.kick()

    def _stepped(self, batch: Batch) -> None:
        sampled = [SampledToken(_next_tokens(each.sequence, 1)[0]) if each.samples else None for each in batch.chunks]
        self.busy = False
        self._tell(self.scheduler.step_done(batch, sampled, self.clock.now))
        self.kick()

    def _fetched(self, fetch: Fetch) -> None:
        self.arrived.append(fetch)
        self.kick()

    def _taken_in(self, fetch: Fetch) -> None:
        self.busy = False
        self._tell(self.scheduler.remote_ready(fetch.sequence.id, self.clock.now))
        self.kick()

    def _tell(self, outputs: list[Output]) -> None:
        for output in outputs:
            sequence = output.sequence
            work = self.work[sequence.id]
            if not work.started:
                work.started = True
                if not sequence.hold:
                    self.decoding[sequence.id] = sequence
                work.on_first(sequence)
            if output.finish_reason is not None or sequence.hold:
                self.decoding.pop(sequence.id, None)
                del self.work[sequence.id]
                work.on_end()


def _next_tokens(sequence: Sequence, count: int) -> list[int]:
    start = sequence.tokens[-1] + 1
    return list(range(start, start + count))
