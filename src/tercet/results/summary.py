"""Figures from records: per mode, rate and turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.results.record import RequestRecord, RunRecord


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, median and 99th percentile (linear between the two nearest) of `count` values."""

    count: int
    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class TurnSummary:
    """One turn of every conversation, over all runs of a mode and rate; `turn` None is all turns together.

    Spreads are over requests with a whole answer, in milliseconds; None when there is none. Token counts are sums over
    those requests; `cached_tokens` is what the decode worker's own prefix cache held, None when no answer said.
    """

    turn: int | None
    requests: int
    ok: int
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    e2e_ms: Spread | None
    prompt_tokens: int
    cached_tokens: int | None
    external_tokens: int | None
    recomputed: int

    @property
    def success(self) -> float:
        """Share of requests with a whole answer, 0 to 1."""
        return self.ok / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class ModeSummary:
    """One mode under one rate. Throughputs are means over the runs, each over its run's wall time."""

    mode: str
    qps: float
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
    p50, p99 = np.percentile(values, [50, 99])
    return Spread(len(values), float(np.mean(values)), float(p50), float(p99))


def summarise_turn(turn: int | None, requests: Sequence[RequestRecord]) -> TurnSummary:
    """Sum up requests of one turn (or of all turns: None)."""
    ok = [request for request in requests if request.ok]
    return TurnSummary(
        turn=turn,
        requests=len(requests),
        ok=len(ok),
        ttft_ms=spread([request.ttft_ms for request in ok]),
        tpot_ms=spread([tpot for request in ok if (tpot := request.tpot_ms) is not None]),
        e2e_ms=spread([request.e2e_ms for request in ok]),
        prompt_tokens=sum(request.prompt_tokens for request in ok),
        cached_tokens=_known_sum(request.cached_tokens for request in ok),
        external_tokens=_known_sum(request.external_tokens for request in ok),
        recomputed=sum(request.recomputed for request in ok),
    )


def summarise(runs: Sequence[RunRecord], devices: dict[str, int]) -> tuple[ModeSummary, ...]:
    """Sum up runs by rate and mode, in the order in which they first appear; `devices` counts each mode's devices."""
    keys = sorted({(run.qps, run.mode): None for run in runs}, key=lambda key: key[0])
    return tuple(_mode_summary(qps, mode, runs, devices.get(mode, 1)) for qps, mode in keys)


def throughput(run: RunRecord) -> tuple[float, float]:
    """Return (requests/s, output tokens/s) of a run's whole answers."""
    if run.duration_s <= 0:
        return 0.0, 0.0
    tokens = sum(request.output_tokens for request in run.finished)
    return len(run.finished) / run.duration_s, tokens / run.duration_s


def _mode_summary(qps: float, mode: str, runs: Sequence[RunRecord], devices: int) -> ModeSummary:
    mine = [run for run in runs if (run.qps, run.mode) == (qps, mode)]
    requests = [request for run in mine for request in run.requests]
    rates = [throughput(run) for run in mine]
    turns = sorted({request.turn for request in requests})
    return ModeSummary(
        mode=mode,
        qps=qps,
        devices=devices,
        runs=len(mine),
        invalid_runs=sum(run.invalid for run in mine),
        requests_per_s=float(np.mean([rate[0] for rate in rates])),
        output_tokens_per_s=float(np.mean([rate[1] for rate in rates])),
        overall=summarise_turn(None, requests),
        turns=tuple(summarise_turn(turn, [r for r in requests if r.turn == turn]) for turn in turns),
    )


def _known_sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
