"""What the clients of the data sets really did, and what they averaged."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.results.record import RequestRecord
from tercet.sim.client import SimConversation, SimTurn
from tercet.sim.content import Content
from tercet.sim.fleet import FleetSpec
from tercet.sim.simulate import simulate
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import Workload, workload_from_name


@dataclass(frozen=True, slots=True)
class Figures:
    """What a client saw: means and medians in milliseconds, `rate` in requests a second, `span` in seconds."""

    ttft: float
    tpot: float
    e2e: float
    ttft_p50: float
    rate: float
    span: float
    count: int


def figures(records: Sequence[RequestRecord], span: float) -> Figures:
    """Return the figures of finished requests within `span` seconds."""
    ttft = [record.ttft_ms for record in records]
    tpot = [record.tpot_ms or 0.0 for record in records if record.output_tokens > 1]
    return Figures(
        float(np.mean(ttft)), float(np.mean(tpot or [0.0])), float(np.mean([record.e2e_ms for record in records])),
        float(np.median(ttft)), len(records) / span, span, len(records),
    )  # fmt: skip


def conversation(number: int, turns: Iterable[tuple[int, int]], at_s: float = 0.0) -> SimConversation:
    """Return one of text alone: `turns` are (new prompt tokens, output tokens), one right after the other."""
    each = tuple(SimTurn(new, output) for new, output in turns)
    return SimConversation(Content(number, str(number), first_text=each[0].new_tokens), each, at_s)


def closed_loop(fleet: FleetSpec, conversations: Sequence[SimConversation], concurrency: int) -> Figures:
    """Keep `concurrency` conversations under way until all were had: the last wave is not full."""
    traffic = TrafficSpec(_SHAPE, 1.0, len(conversations), concurrency=concurrency)
    found = simulate(fleet, traffic, conversations=conversations)
    return figures(found.requests, found.duration_s)


def open_loop() -> TrafficSpec:
    """Return the traffic of conversations that say themselves when they begin."""
    return TrafficSpec(_SHAPE, 1.0, 1)


_SHAPE: Workload = workload_from_name("W1")
"""Counts for nothing: the conversations have lengths of their own."""


def poisson(rate: float, seconds: float, most: int, seed: int) -> Iterator[float]:
    """Yield Poisson arrivals of `rate` a second for so many seconds, one at least and `most` at most."""
    rng, at = random.Random(seed), 0.0
    for i in range(most):
        at += rng.expovariate(rate)
        if at >= seconds and i:
            break
        yield at


def spread(count: int, seconds: float, seed: int) -> list[float]:
    """Return `count` times within so many seconds: Poisson arrivals of which the number is known."""
    rng = random.Random(seed)
    return sorted(rng.uniform(0, seconds) for _ in range(count))


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
