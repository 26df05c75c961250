"""What the clients of the data sets really did: arrivals, lengths, connection pools, waves."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.planner_accuracy.engine import Clock, Turn
from benchmarks.planner_accuracy.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Figures:
    """What a client saw: means and medians in milliseconds, `rate` in requests a second, `span` in seconds."""

    ttft: float
    tpot: float
    e2e: float
    ttft_p50: float
    tpot_p50: float
    e2e_p50: float
    rate: float
    span: float
    count: int


def figures(turns: Sequence[Turn], span: float) -> Figures:
    """Return the figures of finished turns within `span` seconds."""
    ttft = np.array([turn.first - turn.sent for turn in turns]) * 1e3
    e2e = np.array([turn.done - turn.sent for turn in turns]) * 1e3
    decoded = [(turn.done - turn.first) / (turn.output - 1) * 1e3 for turn in turns if turn.output > 1]
    tpot = np.array(decoded or [0.0])
    return Figures(
        float(ttft.mean()), float(tpot.mean()), float(e2e.mean()),
        float(np.median(ttft)), float(np.median(tpot)), float(np.median(e2e)),
        len(turns) / span, span, len(turns),
    )  # fmt: skip


class Client:
    """Sends turns through `connections` connections (0: any number); a turn without one waits, which counts."""

    def __init__(self, clock: Clock, fleet: Fleet, connections: int = 0) -> None:
        self._clock, self._fleet = clock, fleet
        self._free = connections or 1 << 30
        self._waiting: deque[tuple[Turn, Callable[[], None]]] = deque()

    def send(self, turn: Turn, on_end: Callable[[], None] = lambda: None) -> None:
        """Send a turn now, or as soon as there is a connection."""
        turn.sent = self._clock.now
        self._waiting.append((turn, on_end))
        self._next()

    def _next(self) -> None:
        while self._waiting and self._free:
            self._free -= 1
            self._begin(*self._waiting.popleft())

    def _begin(self, turn: Turn, on_end: Callable[[], None]) -> None:
        self._fleet.send(turn, lambda: self._first(turn), lambda: self._end(turn, on_end))

    def _first(self, turn: Turn) -> None:
        turn.first = self._clock.now

    def _end(self, turn: Turn, on_end: Callable[[], None]) -> None:
        turn.done = self._clock.now
        self._free += 1
        on_end()
        self._next()


def poisson(clock: Clock, send: Callable[[int], None], rate: float, seconds: float, most: int, seed: int) -> None:
    """Have `send(i)` called at Poisson arrivals of `rate` a second for so many seconds, `most` times at most."""
    rng, at = random.Random(seed), 0.0
    for i in range(most):
        at += rng.expovariate(rate)
        if at >= seconds and i:
            break
        clock.after(at, lambda i=i: send(i))  # type: ignore[misc]


def spread(clock: Clock, send: Callable[[int], None], count: int, seconds: float, seed: int) -> None:
    """Have `send(i)` called `count` times within so many seconds: Poisson arrivals of which the number is known."""
    rng = random.Random(seed)
    for i, at in enumerate(sorted(rng.uniform(0, seconds) for _ in range(count))):
        clock.after(at, lambda i=i: send(i))  # type: ignore[misc]


def closed_loop(clock: Clock, send: Callable[[int, Callable[[], None]], None], concurrency: int, count: int) -> None:
    """Keep `concurrency` requests under way until `count` were sent: the last wave is not full."""
    sent = 0

    def more() -> None:
        nonlocal sent
        if sent < count:
            sent += 1
            send(sent - 1, more)

    def begin() -> None:
        for _ in range(min(concurrency, count)):
            more()

    clock.after(0.0, begin)


def stopped_lengths(mean: float, most: int, count: int, seed: int) -> list[int]:
    """Return output lengths with this mean that stop at any token alike (EOS), and at `most`."""
    if mean >= most:
        return [most] * count
    low, high = 1e-7, 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if (1 - (1 - middle) ** most) / middle > mean else (low, middle)
    rng = random.Random(seed)
    return [max(min(int(rng.expovariate(1) / -math.log1p(-low)) + 1, most), 2) for _ in range(count)]
