"""The figures a report shows, by name: title, unit, which way is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a run. `positive`: its interval is taken of logarithms, so that it stays above zero."""

    key: str
    title: str
    unit: str
    lower_is_better: bool
    positive: bool = True

    @property
    def axis(self) -> str:
        """Return the axis title with its unit."""
        return f"{self.title} ({self.unit})"


TTFT_P50 = Metric("ttft_p50", "Median TTFT", "ms", True)
TTFT_P99 = Metric("ttft_p99", "P99 TTFT", "ms", True)
TPOT_P50 = Metric("tpot_p50", "Median TPOT", "ms", True)
TPOT_P99 = Metric("tpot_p99", "P99 TPOT", "ms", True)
E2E_MEAN = Metric("e2e_mean", "Mean E2E", "ms", True)
E2E_P50 = Metric("e2e_p50", "Median E2E", "ms", True)
E2E_P99 = Metric("e2e_p99", "P99 E2E", "ms", True)
REQUESTS = Metric("requests_per_s", "Request throughput", "requests/s", False)
TOKENS = Metric("tokens_per_s", "Output throughput", "tok/s", False)
SUCCESS = Metric("success", "Success rate", "%", False, positive=False)
TTFT_FIRST = Metric("ttft_first", "Median TTFT of turn 1", "ms", True)
TTFT_LATER = Metric("ttft_later", "Median TTFT of later turns", "ms", True)
USER_RATE = Metric("user_rate", "Speed seen by a user", "tok/s/user", False)
DEVICE_RATE = Metric("device_rate", "Output per device", "tok/s/device", False)
GOODPUT = Metric("goodput", "Goodput", "requests/s", False, positive=False)

METRICS = (
    TTFT_P50,
    TTFT_P99,
    TPOT_P50,
    TPOT_P99,
    E2E_MEAN,
    E2E_P50,
    E2E_P99,
    REQUESTS,
    TOKENS,
    SUCCESS,
    TTFT_FIRST,
    TTFT_LATER,
    USER_RATE,
    DEVICE_RATE,
    GOODPUT,
)
"""Every figure that is estimated, in the order of the CSV's columns."""
