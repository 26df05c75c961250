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


def judge(records: Iterable[RequestRecord], vitals: Sequence[Vitals]) -> ClientHealth:
    """Judge a client by its requests and what each of its processes measured.

    It is saturated, and the run invalid, when its send delay p99 exceeds the larger of 5 ms and 5% of the median TTFT.
    The CPU fraction is that of the busiest process.
    """
    sent = [record for record in records if record.failure != "not_sent"]
    delays_ms = [(record.sent_s - record.due_s) * 1e3 for record in sent]
    ttfts = [record.ttft_ms for record in sent if record.ok]
    lags_ms = [lag for one in vitals for lag in one.lags_ms]
    delay = _p99(delays_ms)
    limit = max(MAX_DELAY_MS, MAX_DELAY_OF_TTFT * (median(ttfts) if ttfts else 0.0))
    reasons: tuple[str, ...] = ()
    if delay > limit:
        reasons = (
            f"the client was late: 1% of the requests were sent {delay:.1f} ms after they were due, or later; "
            f"{limit:.1f} ms is the limit (try --workers, or a lower load)",
        )
    return ClientHealth(
        lateness_ms_p99=delay,
        lateness_ms_max=max(delays_ms, default=0.0),
        loop_lag_ms_p99=_p99(lags_ms),
        loop_lag_ms_max=max(lags_ms, default=0.0),
        cpu_fraction=max((one.cpu_s / one.wall_s for one in vitals if one.wall_s), default=0.0),
        saturated=bool(reasons),
        reasons=reasons,
    )


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if values else 0.0
