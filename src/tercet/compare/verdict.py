"""Who wins, per rate and metric, and when nobody can say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.compare.statistics import MIN_PAIRS, paired_interval
from tercet.results.record import RequestRecord, RunRecord
from tercet.results.summary import throughput
from tercet.results.verdict import BEATEN, DROPPED, TIE, Margin, Verdict

MATTERS = 0.02
"""A difference below two percent is a tie, however sure."""

FEWER_ANSWERS = 0.01
"""A mode that answers this much less of the requests than the best one can't win: dropping work makes the rest fast."""

RequestKey = tuple[int, str, int]
"""Run, conversation, turn: the same request in every mode."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A latency and the requests it counts."""

    name: str
    label: str
    value: Callable[[RequestRecord], float | None]
    counts: Callable[[RequestRecord], bool]


def metrics(turns: int) -> tuple[Metric, ...]:
    """Return the judged latencies of conversations of `turns` turns."""
    later = f"turns 2-{turns}" if turns > 2 else "turn 2"
    ttft = [Metric("ttft_turn1", "TTFT turn 1", lambda r: r.ttft_ms, lambda r: r.turn == 1)]
    if turns > 1:
        ttft.append(Metric("ttft_later", f"TTFT {later}", lambda r: r.ttft_ms, lambda r: r.turn > 1))
    return (
        *ttft,
        Metric("tpot", "TPOT", lambda r: r.tpot_ms, lambda r: True),
        Metric("e2e", "E2E", lambda r: r.e2e_ms, lambda r: True),
    )


@dataclass(frozen=True, slots=True)
class Field:
    """What is compared at one rate: the runs that every mode completed, and what stands against a verdict.

    `out` are modes that can't win because they answered fewer requests; `obstacle` is why nobody can (empty: somebody
    can).
    """

    workload: str
    qps: float
    modes: tuple[str, ...]
    runs: tuple[RunRecord, ...]
    by_run: bool
    out: tuple[str, ...]
    obstacle: str


def judge(runs: Sequence[RunRecord], *, turns: int, devices: dict[str, int]) -> tuple[Verdict, ...]:
    """Return the verdicts of every rate at which two or more modes ran, by rate and metric.

    The unit is the run when every mode has three or more, else the conversation (its turns share one luck, so they are
    one unit). Only requests that every mode answered are compared. Throughput is per device when the devices differ.
    """
    verdicts: list[Verdict] = []
    for workload, qps in sorted({(run.workload, run.load) for run in runs}):
        here = [run for run in runs if (run.workload, run.load) == (workload, qps)]
        modes = tuple(dict.fromkeys(run.architecture for run in here))
        if len(modes) > 1:
            verdicts += _judge_rate(_field(workload, qps, modes, here), turns, devices)
    return tuple(verdicts)


def _field(workload: str, qps: float, modes: tuple[str, ...], runs: Sequence[RunRecord]) -> Field:
    numbers = set.intersection(
        *({run.block for run in runs if run.architecture == mode and run.complete} for mode in modes)
    )
    paired = tuple(sorted((run for run in runs if run.block in numbers), key=lambda run: run.block))
    by_run = len(numbers) >= MIN_PAIRS
    return Field(workload, qps, modes, paired, by_run, _short_of_answers(paired, modes), _obstacle(paired))


def _judge_rate(field: Field, turns: int, devices: dict[str, int]) -> list[Verdict]:
    verdicts = [
        _rank(field, (metric.name, metric.label, "ms"), _latency_units(field, metric), by_run=field.by_run)
        for metric in metrics(turns)
    ]
    counts = {mode: devices.get(mode, 1) for mode in field.modes}
    equal = len(set(counts.values())) == 1
    tokens = {
        mode: [throughput(run)[1] / (1 if equal else counts[mode]) for run in field.runs if run.architecture == mode]
        for mode in field.modes
    }
    name = "output tokens/s" if equal else "output tokens/s per device"
    verdicts.append(_rank(field, ("throughput", name, ""), tokens, by_run=True, lower_is_better=False))
    return verdicts


def _obstacle(runs: Sequence[RunRecord]) -> str:
    if not runs:
        return "no run was completed in every mode"
    for run in runs:
        if run.invalid_reasons:
            return f"run {run.block + 1} of {run.architecture} is invalid: {run.invalid_reasons[0]}"
    return ""


def _short_of_answers(runs: Sequence[RunRecord], modes: Sequence[str]) -> tuple[str, ...]:
    share = {}
    for mode in modes:
        requests = [request for run in runs if run.architecture == mode for request in run.requests]
        share[mode] = sum(request.ok for request in requests) / max(1, len(requests))
    best = max(share.values())
    return tuple(mode for mode in modes if share[mode] < best - FEWER_ANSWERS)


def _latency_units(field: Field, metric: Metric) -> dict[str, list[float]]:
    """Return mode -> one mean per unit, the units in the same order and over the same requests in every mode."""
    found: dict[str, dict[RequestKey, float]] = {mode: {} for mode in field.modes}
    for run in field.runs:
        for request in run.finished:
            value = metric.value(request) if metric.counts(request) else None
            if value is not None:
                found[run.architecture][(run.block, request.conversation, request.turn)] = value
    common = sorted(set.intersection(*(set(values) for values in found.values())))
    groups: dict[tuple[int, str], list[RequestKey]] = {}
    for key in common:
        groups.setdefault((key[0], "" if field.by_run else key[1]), []).append(key)
    return {
        mode: [float(np.mean([values[key] for key in keys])) for keys in groups.values()]
        for mode, values in found.items()
    }


def _rank(
    field: Field,
    name: tuple[str, str, str],
    units: dict[str, list[float]],
    *,
    by_run: bool,
    lower_is_better: bool = True,
) -> Verdict:
    noun = "run" if by_run else "paired conversation"
    count = min(len(values) for values in units.values())
    values = {mode: float(np.mean(units[mode])) for mode in field.modes if units[mode]}
    basis = f"{count} {noun}{'' if count == 1 else 's'}"
    reason = field.obstacle
    if not reason and count < MIN_PAIRS:
        reason = f"needs at least {MIN_PAIRS} {noun}s, there {'is' if count == 1 else 'are'} {count}"
    if reason:
        return Verdict(field.workload, "qps", field.qps, *name, lower_is_better, True, values, (), (), basis, reason)
    sign = 1.0 if lower_is_better else -1.0
    best = min((mode for mode in field.modes if mode not in field.out), key=lambda mode: sign * values[mode])
    margins = tuple(
        _margin(mode, units[mode], units[best], sign, out=mode in field.out) for mode in field.modes if mode != best
    )
    beaten = {margin.architecture for margin in margins if margin.outcome != TIE}
    leaders = tuple(mode for mode in field.modes if mode not in beaten)
    return Verdict(field.workload, "qps", field.qps, *name, lower_is_better, True, values, leaders, margins, basis)


def _margin(mode: str, mine: Sequence[float], best: Sequence[float], sign: float, *, out: bool) -> Margin:
    base = abs(float(np.mean(best))) or 1.0
    interval = paired_interval([sign * (m - b) / base for m, b in zip(mine, best, strict=True)])
    assert interval is not None  # the caller counted the pairs
    beaten = interval.low > 0 and interval.mean >= MATTERS
    outcome = DROPPED if out else BEATEN if beaten else TIE
    return Margin(mode, interval.mean, interval.low, interval.high, 0.05 if beaten else 1.0, outcome)
