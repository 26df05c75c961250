"""What is compared: one figure per run, of the requests that every architecture answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.core.errors import UsageError
from tercet.results.record import RequestRecord, RunRecord
from tercet.results.slo import Slo
from tercet.results.summary import goodput, throughput

RequestKey = tuple[str, int]
"""Conversation and turn: the same request in every architecture."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a run. `value` is of one request (None: it has none), `counts` says which requests take part.

    `percentile` None is their mean. What is of a run as a whole has `of_run` instead.
    """

    name: str
    label: str
    unit: str
    lower_is_better: bool = True
    value: Callable[[RequestRecord], float | None] | None = None
    counts: Callable[[RequestRecord], bool] = lambda request: True
    percentile: float | None = None
    of_run: Callable[[RunRecord], float] | None = None


THROUGHPUT = "throughput"
GOODPUT = "goodput"
NO_GOOD = 0.5
"""What a run without one good answer is taken for, in answers, beside one that has some."""
LATER = "ttft_later"
NAMES = ("ttft", "ttft_turn1", LATER, "ttft_p99", "tpot", "e2e", "e2e_p99", THROUGHPUT, GOODPUT)
DEFAULT_PRIMARY = ("ttft", THROUGHPUT)


def metrics(turns: int, *, per_device: bool = False, slo: Slo | None = None) -> tuple[Metric, ...]:
    """Return the metrics of conversations of `turns` turns, in the order in which tables show them; with an `slo`
    goodput, too."""
    later = f"turns 2-{turns}" if turns > 2 else "turn 2"
    by_turn = (
        Metric("ttft_turn1", "TTFT turn 1", "ms", value=_ttft, counts=lambda r: r.turn == 1),
        Metric(LATER, f"TTFT {later}", "ms", value=_ttft, counts=lambda r: r.turn > 1),
    )
    each = " per device" if per_device else ""
    good = []
    if slo is not None:
        label = f"goodput/s{each} ({slo})"
        good = [Metric(GOODPUT, label, "", lower_is_better=False, of_run=lambda run: goodput(run, slo))]
    return (
        Metric("ttft", "TTFT", "ms", value=_ttft),
        *(by_turn if turns > 1 else ()),
        Metric("ttft_p99", "TTFT p99", "ms", value=_ttft, percentile=99),
        Metric("tpot", "TPOT", "ms", value=lambda r: r.tpot_ms),
        Metric("e2e", "E2E", "ms", value=lambda r: r.e2e_ms),
        Metric("e2e_p99", "E2E p99", "ms", value=lambda r: r.e2e_ms, percentile=99),
        Metric(THROUGHPUT, f"output tokens/s{each}", "", lower_is_better=False, of_run=lambda run: throughput(run)[1]),
        *good,
    )


def primary_metrics(names: Sequence[str], turns: int, slo: Slo | None = None) -> tuple[str, ...]:
    """Return `names`, checked. Raises UsageError for an unknown one, or one that such conversations lack."""
    known = [metric.name for metric in metrics(turns, slo=slo)]
    for name in names:
        if name not in NAMES:
            raise UsageError(f"--primary {name!r} is unknown: choose from {', '.join(NAMES)}")
        if name == GOODPUT and slo is None:
            raise UsageError("--primary goodput needs to know which answers are good: give --slo, such as ttft:500")
        if name not in known:
            raise UsageError(f"--primary {name} needs conversations of several turns: raise --turns")
    if not names or len(set(names)) < len(names):
        raise UsageError("--primary needs one or more different metrics, for instance ttft,throughput")
    return tuple(names)


def values(metric: Metric, runs: Mapping[str, RunRecord], devices: Mapping[str, int]) -> dict[str, float]:
    """Return architecture -> the metric of its run. `runs` are one block's.

    Latencies are of the requests that every architecture answered; none in common, or nothing answered: no value.
    What is of a run as a whole is divided by `devices` (1 where it says nothing).
    """
    if metric.of_run is not None:
        found = {label: metric.of_run(run) for label, run in runs.items()}
        if metric.name == GOODPUT and any(found.values()):
            # A ratio needs figures above nothing, and none good where others have some is no missing figure.
            found = {label: value or NO_GOOD / runs[label].duration_s for label, value in found.items()}
        return {label: value / devices.get(label, 1) for label, value in found.items() if value > 0}
    assert metric.value is not None
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
