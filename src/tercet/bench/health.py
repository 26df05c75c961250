"""Whether the load generator itself kept up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns, process_time_ns

from tercet.bench.metrics import percentile
from tercet.bench.result import RequestResult
from tercet.results.record import ClientHealth

TICK_S = 0.01
MAX_DELAY_MS = 5.0
MAX_DELAY_OF_TTFT = 0.05


@dataclass(frozen=True, slots=True)
class Health:
    """How the load generator fared. Delays in milliseconds; `cpu_fraction` is CPU time over wall time."""

    send_delay_ms_p99: float
    send_delay_ms_max: float
    loop_lag_ms_p99: float
    loop_lag_ms_max: float
    cpu_fraction: float
    reasons: tuple[str, ...] = ()

    @property
    def invalid(self) -> bool:
        """True when the run measured its client rather than its server."""
        return bool(self.reasons)

    def for_results(self) -> ClientHealth:
        """Return this as a results file keeps it."""
        return ClientHealth(
            lateness_ms_p99=self.send_delay_ms_p99,
            lateness_ms_max=self.send_delay_ms_max,
            loop_lag_ms_p99=self.loop_lag_ms_p99,
            loop_lag_ms_max=self.loop_lag_ms_max,
            cpu_fraction=self.cpu_fraction,
            saturated=self.invalid,
            reasons=self.reasons,
        )


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

    def health(self, results: Sequence[RequestResult]) -> Health:
        """Return the verdict on the run whose requests these are."""
        wall_ns = perf_counter_ns() - self._started_ns
        cpu = (process_time_ns() - self._cpu_ns) / wall_ns if wall_ns else 0.0
        return judge([result.delay_ms for result in results], _median_ttft_ms(results), self._lags_ms, cpu)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self._lags_ms.append(max(0.0, loop.time() - due) * 1e3)


def judge(
    delays_ms: Sequence[float], median_ttft_ms: float | None, lags_ms: Sequence[float], cpu_fraction: float
) -> Health:
    """Judge a client: invalid when its send delay p99 exceeds the larger of 5 ms and 5% of the median TTFT."""
    delay = percentile(delays_ms, 99) if delays_ms else 0.0
    limit = max(MAX_DELAY_MS, MAX_DELAY_OF_TTFT * (median_ttft_ms or 0.0))
    reasons: tuple[str, ...] = ()
    if delay > limit:
        reasons = (f"1% of the requests were sent {delay:.1f} ms late or more: {limit:.1f} ms is the limit",)
    return Health(
        send_delay_ms_p99=delay,
        send_delay_ms_max=max(delays_ms, default=0.0),
        loop_lag_ms_p99=percentile(lags_ms, 99) if lags_ms else 0.0,
        loop_lag_ms_max=max(lags_ms, default=0.0),
        cpu_fraction=cpu_fraction,
        reasons=reasons,
    )


def _median_ttft_ms(results: Sequence[RequestResult]) -> float | None:
    values = [ttft for result in results if result.ok and (ttft := result.ttft_ms) is not None]
    return median(values) if values else None
