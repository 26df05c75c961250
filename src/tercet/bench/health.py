"""Whether the load generator itself kept up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns, process_time_ns

import numpy as np

from tercet.results.record import ClientHealth, RequestRecord

TICK_S = 0.01
MAX_DELAY_MS = 5.0
MAX_DELAY_OF_TTFT = 0.05


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one process of the load generator measured of itself: each tick's lag, its CPU time, the run's wall time."""

    lags_ms: tuple[float, ...]
    cpu_s: float
    wall_s: float


class Watch:
    """Measures the event loop's lag and the process's CPU time while it is entered."""

    def __init__(self) -> None:
        self._lags_ms: list[float] = []
        self._task: asyncio.Task[None] | None = None
        self._started_ns = 0
        self._cpu_ns = 0

    async def __aenter__(self) -> Watch:
        self._started_ns, self._cpu_ns = perf_counter_ns(), process_time_ns()
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()

    def vitals(self) -> Vitals:
        """Return what was measured so far."""
        wall_s = (perf_counter_ns() - self._started_ns) / 1e9
        return Vitals(tuple(self._lags_ms), (process_time_ns() - self._cpu_ns) / 1e9, wall_s)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self._lags_ms.append(max(0.0, loop.time() - due) * 1e3)


def judge(records: Iterable[RequestRecord], vitals: Sequence[Vitals], *, closed: bool = False) -> ClientHealth:
    """Judge a client by its requests and what each of its processes measured.

    It is saturated, and the run invalid, when its send delay p99 exceeds the larger of 5 ms and 5% of the median TTFT.
    In a `closed` loop a request is due when the one before was read: however late that was, none is sent late. There
    the event loop's mean lag counts, by which answers are read, and their times taken, too late.
    The CPU fraction is that of the busiest process.
    """
    sent = [record for record in records if record.failure != "not_sent"]
    delays_ms = [(record.sent_s - record.due_s) * 1e3 for record in sent]
    ttfts = [record.ttft_ms for record in sent if record.ok]
    lags_ms = [lag for one in vitals for lag in one.lags_ms]
    delay, lag = _p99(delays_ms), _p99(lags_ms)
    limit = max(MAX_DELAY_MS, MAX_DELAY_OF_TTFT * (median(ttfts) if ttfts else 0.0))
    what = ""
    if delay > limit:
        what = f"1% of the requests were sent {delay:.1f} ms after they were due, or later"
    elif closed and (behind := _behind(lags_ms)) > limit:
        what = f"what had come was read {behind:.1f} ms too late on average"
    reasons: tuple[str, ...] = ()
    if what:
        reasons = (f"the client was late: {what}; {limit:.1f} ms is the limit (try --workers, or a lower load)",)
    return ClientHealth(
        lateness_ms_p99=delay,
        lateness_ms_max=max(delays_ms, default=0.0),
        loop_lag_ms_p99=lag,
        loop_lag_ms_max=max(lags_ms, default=0.0),
        cpu_fraction=max((one.cpu_s / one.wall_s for one in vitals if one.wall_s), default=0.0),
        saturated=bool(reasons),
        reasons=reasons,
    )


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if values else 0.0


def _behind(lags_ms: Sequence[float]) -> float:
    """Return the mean lag over the time, in ms: a loop that stood still for long had one tick meanwhile."""
    spans_ms = [lag + TICK_S * 1e3 for lag in lags_ms]
    return float(np.average(lags_ms, weights=spans_ms)) if lags_ms else 0.0
