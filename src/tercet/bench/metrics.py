"""Figures from what was measured, per turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.bench.result import RequestResult


@dataclass(frozen=True, slots=True)
class Distribution:
    """`count` values: their mean and percentiles (linear between the two nearest)."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class TurnMetrics:
    """One turn of every conversation; `turn` None is all of them. Milliseconds, over whole answers; None of nothing."""

    turn: int | None
    requests: int
    ok: int
    ttft_ms: Distribution | None
    tpot_ms: Distribution | None
    itl_ms: Distribution | None
    e2e_ms: Distribution | None
    scheduled_ttft_ms: Distribution | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


def percentile(values: Sequence[float], q: float) -> float:
    """Return the q-th percentile (0 to 100), linear between the two nearest values. `values` must not be empty."""
    return float(np.percentile(values, q))


def distribution(values: Iterable[float | None]) -> Distribution | None:
    """Return the distribution of the values that are known, None when there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    p50, p90, p95, p99 = (float(p) for p in np.percentile(known, [50, 90, 95, 99]))
    return Distribution(len(known), float(np.mean(known)), p50, p90, p95, p99, max(known))


def turn_metrics(turn: int | None, results: Sequence[RequestResult]) -> TurnMetrics:
    """Sum up requests. `scheduled_ttft_ms` counts from when a request was due: it includes the client's own delay."""
    ok = [result for result in results if result.ok]
    return TurnMetrics(
        turn=turn,
        requests=len(results),
        ok=len(ok),
        ttft_ms=distribution(result.ttft_ms for result in ok),
        tpot_ms=distribution(result.tpot_ms for result in ok),
        itl_ms=distribution(gap for result in ok for gap in result.itl_ms),
        e2e_ms=distribution(result.e2e_ms for result in ok),
        scheduled_ttft_ms=distribution((result.chunk_ns[0] - result.scheduled_ns) / 1e6 for result in ok),
        prompt_tokens=sum(result.prompt_tokens or 0 for result in ok),
        cached_tokens=sum(result.cached_tokens or 0 for result in ok),
        completion_tokens=sum(result.completion_tokens or 0 for result in ok),
    )


def metrics(results: Sequence[RequestResult]) -> tuple[TurnMetrics, ...]:
    """Return the figures of all turns together, then of each turn."""
    turns = sorted({result.turn for result in results})
    return (
        turn_metrics(None, results),
        *(turn_metrics(turn, [result for result in results if result.turn == turn]) for turn in turns),
    )


def peak_concurrency(results: Sequence[RequestResult]) -> int:
    """Return the most requests that were under way at one instant: exact, not binned."""
    changes = [(result.sent_ns, 1) for result in results] + [(result.done_ns, -1) for result in results]
    under_way = peak = 0
    for _, change in sorted(changes):
        under_way += change
        peak = max(peak, under_way)
    return peak


def duration_s(results: Sequence[RequestResult]) -> float:
    """Return the seconds from the first request's sending to the last one's end."""
    if not results:
        return 0.0
    return (max(result.done_ns for result in results) - min(result.sent_ns for result in results)) / 1e9
