"""A figure over several runs: its value, its interval, and how both are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tercet.report.figures import milliseconds, percent
from tercet.report.metric import Metric
from tercet.results.student import mean_interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over `runs` runs with its 95% interval; no interval where the runs are too few for one."""

    value: float
    low: float | None
    high: float | None
    runs: int


def estimate(values: Sequence[float], metric: Metric) -> Estimate | None:
    """Return the estimate of a metric from one value a run; None of nothing.

    Of positive figures it is the geometric mean and the interval of the logarithms: neither falls below zero, and
    ratios of two estimates are what paired log-ratios speak of. A share keeps its plain mean, within 0 and 1.
    """
    if not values:
        return None
    logs = metric.positive and all(value > 0 for value in values)
    mean, low, high = mean_interval([math.log(value) for value in values] if logs else values)
    if logs:
        mean, low, high = math.exp(mean), _exp(low), _exp(high)
    elif low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high) if metric.unit == "%" else high
    return Estimate(mean, low, high, len(values))


def value_text(value: float, metric: Metric) -> str:
    """Write a figure without its unit (a percentage keeps its sign)."""
    if metric.unit == "%":
        return percent(value)
    if metric.unit == "ms" or value < 99.95:
        return milliseconds(value)
    return f"{value:,.0f}"


def estimate_text(found: Estimate, metric: Metric) -> str:
    """Write a figure with its interval, without the unit: `123 (110 to 137)`."""
    text = value_text(found.value, metric)
    if found.low is None or found.high is None:
        return text
    return f"{text} ({value_text(found.low, metric)} to {value_text(found.high, metric)})"


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(min(value, 700.0))
