"""What is compared: one figure per run, of the requests that every architecture answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.core.errors import UsageError
from tercet.results.record import RequestRecord, RunRecord
from tercet.results.summary import throughput

RequestKey = tuple[str, int]
"""Conversation and turn: the same request in every architecture."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a run. `value` is of one request (None: it has none), `counts` says which requests take part.

    `percentile` None is their mean. Throughput is of the run as a whole: its `value` is None.
    """

    name: str
    label: str
    unit: str
    lower_is_better: bool = True
    value: Callable[[RequestRecord], float | None] | None = None
    counts: Callable[[RequestRecord], bool] = lambda request: True
    percentile: float | None = None


THROUGHPUT = "throughput"
LATER = "ttft_later"
NAMES = ("ttft", "ttft_turn1", LATER, "ttft_p99", "tpot", "e2e", "e2e_p99", THROUGHPUT)
DEFAULT_PRIMARY = ("ttft", THROUGHPUT)


def metrics(turns: int, *, per_device: bool = False) -> tuple[Metric, ...]:
    """Return the metrics of conversations of `turns` turns, in the order in which tables show them."""
    later = f"turns 2-{turns}" if turns > 2 else "turn 2"
    by_turn = (
        Metric("ttft_turn1", "TTFT turn 1", "ms", value=_ttft, counts=lambda r: r.turn == 1),
        Metric(LATER, f"TTFT {later}", "ms", value=_ttft, counts=lambda r: r.turn > 1),
    )
    tokens = "output tokens/s per device" if per_device else "output tokens/s"
    return (
        Metric("ttft", "TTFT", "ms", value=_ttft),
        *(by_turn if turns > 1 else ()),
        Metric("ttft_p99", "TTFT p99", "ms", value=_ttft, percentile=99),
        Metric("tpot", "TPOT", "ms", value=lambda r: r.tpot_ms),
        Metric("e2e", "E2E", "ms", value=lambda r: r.e2e_ms),
        Metric("e2e_p99", "E2E p99", "ms", value=lambda r: r.e2e_ms, percentile=99),
        Metric(THROUGHPUT, tokens, "", lower_is_better=False),
    )


def primary_metrics(names: Sequence[str], turns: int) -> tuple[str, ...]:
    """Return `names`, checked. Raises UsageError for an unknown one, or one that conversations of `turns` lack."""
    known = [metric.name for metric in metrics(turns)]
    for name in names:
        if name not in NAMES:
            raise UsageError(f"--primary {name!r} is unknown: choose from {', '.join(NAMES)}")
        if name not in known:
            raise UsageError(f"--primary {name} needs conversations of several turns: raise --turns")
    if not names or len(set(names)) < len(names):
        raise UsageError("--primary needs one or more different metrics, for instance ttft,throughput")
    return tuple(names)


def values(metric: Metric, runs: Mapping[str, RunRecord], devices: Mapping[str, int]) -> dict[str, float]:
    """Return architecture -> the metric of its run. `runs` are one block's.

    Latencies are of the requests that every architecture answered; none in common, or nothing answered: no value.
    Throughput is divided by `devices` (1 where it says nothing).
    """
    if metric.value is None:
        found = {label: throughput(run)[1] / devices.get(label, 1) for label, run in runs.items()}
        return {label: value for label, value in found.items() if value > 0}
    by_request: dict[str, dict[RequestKey, float]] = {}
    for label, run in runs.items():
        taken = ((r, metric.value(r)) for r in run.finished if metric.counts(r))
        by_request[label] = {(r.conversation, r.turn): value for r, value in taken if value is not None and value > 0}
    common = set.intersection(*(set(found) for found in by_request.values())) if by_request else set()
    if not common:
        return {}
    return {label: _level([found[key] for key in common], metric.percentile) for label, found in by_request.items()}


def _level(found: Sequence[float], percentile: float | None) -> float:
    return float(np.mean(found) if percentile is None else np.percentile(found, percentile))


def _ttft(request: RequestRecord) -> float:
    return request.ttft_ms
