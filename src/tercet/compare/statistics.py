"""Paired differences and how sure one can be of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_PAIRS = 3
"""Fewer paired units than this give no interval worth the name."""

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, 97.5th percentile, for 1 to 30 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `count` paired differences and its two-sided 95% interval."""

    count: int
    mean: float
    low: float
    high: float


def t_975(freedom: int) -> float:
    """Return Student's t for a two-sided 95% interval; beyond 30 degrees of freedom 1.96 + 2.42 / n."""
    return _T_975[freedom - 1] if freedom <= len(_T_975) else 1.96 + 2.42 / freedom


def paired_interval(differences: Sequence[float]) -> Interval | None:
    """Return the mean of `differences` with its 95% interval, mean +- t * s / sqrt(n); None below MIN_PAIRS.

    Student's interval rather than a bootstrap: of three runs a bootstrap calls any three differences of one sign a
    win, which chance alone brings one time in four.
    """
    count = len(differences)
    if count < MIN_PAIRS:
        return None
    mean = float(np.mean(differences))
    half = t_975(count - 1) * float(np.std(differences, ddof=1)) / math.sqrt(count)
    return Interval(count, mean, mean - half, mean + half)
