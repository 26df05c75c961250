"""Paired differences and how sure one can be of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tercet.results.student import t_975

MIN_PAIRS = 3
"""Fewer paired units than this give no interval worth the name."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `count` paired differences and its two-sided 95% interval."""

    count: int
    mean: float
    low: float
    high: float


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
