"""Paired log-ratios of runs: their mean, interval and p-value. Student's t from the incomplete beta function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tercet.results.student import MIN_VALUES, t_975

MAX_TERMS = 300
PRECISION = 1e-14


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """`count` paired log-ratios: their mean and standard error, and the two-sided p-value of a mean of zero."""

    count: int
    mean: float
    error: float
    p: float

    @property
    def half(self) -> float:
        """Half the width of the 95% interval of the mean."""
        return t_975(self.count - 1) * self.error

    def half_at(self, level: float) -> float:
        """Return half the width of the interval that leaves out zero where the p-value is below `level`, above 0."""
        return student(level, self.count - 1) * self.error if self.error else 0.0

    @property
    def ratio(self) -> float:
        """The ratio itself: the geometric mean of the pairs' ratios."""
        return math.exp(self.mean)

    @property
    def inverse(self) -> PairedRatio:
        """The ratio the other way round."""
        return replace(self, mean=-self.mean)

    @property
    def low(self) -> float:
        """Lower end of the ratio's 95% interval."""
        return math.exp(self.mean - self.half)

    @property
    def high(self) -> float:
        """Upper end of the ratio's 95% interval."""
        return math.exp(self.mean + self.half)


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> PairedRatio | None:
    """Return the ratio of `first` to `second`, pair by pair; None below three pairs. All values must be positive.

    Student's interval rather than a bootstrap: of three runs a bootstrap calls any three differences of one sign a
    win, which chance alone brings one time in four.
    """
    return paired_logs(log_ratios(first, second))


def log_ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return the logarithms of the pairs' ratios."""
    return [math.log(one / other) for one, other in zip(first, second, strict=True)]


def paired_logs(logs: Sequence[float]) -> PairedRatio | None:
    """Return what `logs`, one paired log-ratio per run, say together; None below three."""
    count = len(logs)
    if count < MIN_VALUES:
        return None
    mean = float(np.mean(logs))
    error = float(np.std(logs, ddof=1)) / math.sqrt(count)
    if error == 0.0:
        return PairedRatio(count, mean, 0.0, 1.0 if mean == 0.0 else 0.0)
    return PairedRatio(count, mean, error, two_sided_p(mean / error, count - 1))


def two_sided_p(t: float, freedom: int) -> float:
    """Return the chance of a Student's t of `freedom` degrees at least as far from zero as `t`.

    I_x(n / 2, 1 / 2) with x = n / (n + t^2): Abramowitz & Stegun 26.7.1.
    """
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def student(level: float, freedom: int) -> float:
    """Return the t whose two-sided p-value is `level`, 0 < level <= 1: by halving, to a part in 10^12."""
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > level:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > level else (low, middle)
    return high


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), 0 <= x <= 1.

    The continued fraction of Abramowitz & Stegun 26.5.8, evaluated by Lentz's method.
    """
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c, d = 1.0, _inverse(1.0 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, MAX_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = _inverse(1.0 + term * d)
            c = 1.0 + term / c
            fraction *= c * d
        if abs(c * d - 1.0) < PRECISION:
            break
    return front * fraction / a


def _inverse(value: float) -> float:
    return 1.0 / (value or 1e-300)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for being many (Holm 1979), in the order given.

    Naming only those below 5% keeps the chance of a single false one among all of them below 5%.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = highest
    return adjusted
