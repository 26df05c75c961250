"""Figures from records: per workload, load, architecture and turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.results.record import RequestRecord, RunRecord
from tercet.results.slo import Slo


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, percentiles (linear between the two nearest) and maximum of `count` values."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class TurnSummary:
    """One turn of every conversation, over the runs of a summary; `turn` None is all turns together.

    Spreads are over requests with a whole answer, in milliseconds; None when there is none. Token counts are sums over
    those requests; `cached_tokens` is what the decode worker's own prefix cache held, None when no answer said.
    `phases_ms` are means over the requests whose answers named that phase.
    """

    turn: int | None
    requests: int
    ok: int
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    e2e_ms: Spread | None
    prompt_tokens: int
    cached_tokens: int | None
    external_tokens: int | None
    recomputed: int
    phases_ms: Mapping[str, float]

    @property
    def success(self) -> float:
        """Share of requests with a whole answer, 0 to 1."""
        return self.ok / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """One architecture under one load. Throughputs are means over the runs, each over its run's wall time or window.

    All figures are of the valid runs, and of all where none is valid: `invalid_runs` of `runs` are no evidence.
    """

    workload: str
    load_kind: str
    load: float
    architecture: str
    mode: str
    devices: int
    runs: int
    invalid_runs: int
    requests_per_s: float
    output_tokens_per_s: float
    overall: TurnSummary
    turns: tuple[TurnSummary, ...]


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of `values`, None of nothing."""
    if not values:
        return None
    p50, p95, p99 = (float(p) for p in np.percentile(values, [50, 95, 99]))
    return Spread(len(values), float(np.mean(values)), p50, p95, p99, float(max(values)))


def summarise_turn(turn: int | None, requests: Sequence[RequestRecord]) -> TurnSummary:
    """Sum up requests of one turn (or of all turns: None)."""
    ok = [request for request in requests if request.ok]
    return TurnSummary(
        turn=turn,
        requests=len(requests),
        ok=len(ok),
        ttft_ms=spread([request.ttft_ms for request in ok]),
        tpot_ms=spread([tpot for request in ok if (tpot := request.tpot_ms) is not None]),
        itl_ms=spread([gap for request in ok for gap in request.itl_ms]),
        e2e_ms=spread([request.e2e_ms for request in ok]),
        prompt_tokens=sum(request.prompt_tokens for request in ok),
        cached_tokens=_known_sum(request.cached_tokens for request in ok),
        external_tokens=_known_sum(request.external_tokens for request in ok),
        recomputed=sum(request.recomputed for request in ok),
        phases_ms=_mean_phases(ok),
    )


def summarise(runs: Sequence[RunRecord], devices: Mapping[str, int]) -> tuple[Summary, ...]:
    """Sum up runs by workload, load and architecture; `devices` counts each architecture's devices (else 1).

    Workloads and architectures keep the order in which they first appear, loads ascend.
    """
    cells: dict[tuple[str, str, float, str], list[RunRecord]] = {}
    for run in runs:
        cells.setdefault((run.workload, run.load_kind, run.load, run.architecture), []).append(run)
    places = [list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1, 3)]

    def place(key: tuple[str, str, float, str]) -> tuple[int, int, float, int]:
        return places[0].index(key[0]), places[1].index(key[1]), key[2], places[2].index(key[3])

    return tuple(_summary(cells[key], devices.get(key[3], 1)) for key in sorted(cells, key=place))


@dataclass(frozen=True, slots=True)
class Work:
    """What a run got done, in `seconds`: the whole answers that ended, and the output tokens that came.

    Of a run with a steady window: in that window, and of every answer the share of pieces that came in it. Rates are of
    this work, never of what was sent: an overloaded server answers after the window what was sent in it.
    """

    seconds: float
    ended: tuple[RequestRecord, ...]
    output_tokens: float


def work(run: RunRecord) -> Work:
    """Return what a run got done."""
    if run.window_s is None:
        return Work(run.duration_s, run.finished, sum(request.output_tokens for request in run.finished))
    start_s, end_s = run.window_s
    return Work(
        end_s - start_s,
        tuple(request for request in run.finished if start_s <= request.chunk_s[-1] <= end_s),
        sum(
            request.output_tokens * sum(start_s <= chunk <= end_s for chunk in request.chunk_s) / len(request.chunk_s)
            for request in run.finished
        ),
    )


def throughput(run: RunRecord) -> tuple[float, float]:
    """Return (requests/s, output tokens/s) of a run's whole answers, in its steady window where it has one."""
    done = work(run)
    if done.seconds <= 0:
        return 0.0, 0.0
    return len(done.ended) / done.seconds, done.output_tokens / done.seconds


def goodput(run: RunRecord, slo: Slo) -> float:
    """Return the whole answers a second that kept the limits, in the steady window where the run has one."""
    done = work(run)
    return sum(map(slo.met_by, done.ended)) / done.seconds if done.seconds > 0 else 0.0


def _summary(runs: Sequence[RunRecord], devices: int) -> Summary:
    valid = [run for run in runs if not run.invalid] or runs
    requests = [request for run in valid for request in run.measured]
    rates = [throughput(run) for run in valid]
    turns = sorted({request.turn for request in requests})
    return Summary(
        workload=runs[0].workload,
        load_kind=runs[0].load_kind,
        load=runs[0].load,
        architecture=runs[0].architecture,
        mode=runs[0].mode,
        devices=devices,
        runs=len(runs),
        invalid_runs=sum(run.invalid for run in runs),
        requests_per_s=float(np.mean([rate[0] for rate in rates])),
        output_tokens_per_s=float(np.mean([rate[1] for rate in rates])),
        overall=summarise_turn(None, requests),
        turns=tuple(summarise_turn(turn, [r for r in requests if r.turn == turn]) for turn in turns),
    )


def _mean_phases(requests: Sequence[RequestRecord]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for request in requests:
        for phase, value in request.phases_ms.items():
            found.setdefault(phase, []).append(value)
    return {phase: float(np.mean(values)) for phase, values in found.items()}


def _known_sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
