"""Student's t, and the interval of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MIN_VALUES = 3
"""Fewer values than this give no interval worth the name."""

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, 97.5th percentile, for 1 to 30 degrees of freedom."""


def t_975(freedom: int) -> float:
    """Return Student's t for a two-sided 95% interval; beyond 30 degrees of freedom 1.96 + 2.42 / n."""
    return _T_975[freedom - 1] if freedom <= len(_T_975) else 1.96 + 2.42 / freedom


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean of one or more values with its 95% interval, mean -+ t * s / sqrt(n); None, None below
    MIN_VALUES.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < MIN_VALUES:
        return mean, None, None
    half = t_975(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half
