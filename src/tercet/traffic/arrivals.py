"""When conversations arrive. Open loop: no arrival ever waits for an answer."""

from __future__ import annotations

import random
from enum import StrEnum

from tercet.core.errors import UsageError


class Arrivals(StrEnum):
    """The pattern of arrivals."""

    POISSON = "poisson"
    CONSTANT = "constant"


def arrival_times(pattern: Arrivals, rate: float, count: int, seed: int) -> list[float]:
    """Return `count` arrival times in seconds, rising from 0.0, at `rate` a second.

    Poisson gaps are exponential with mean 1 / rate; constant gaps are 1 / rate. Raises UsageError when
    `rate` isn't positive and finite.
    """
    if not 0 < rate < float("inf"):
        raise UsageError(f"can't send at a rate of {rate} a second: give a number above 0")
    if pattern is Arrivals.CONSTANT:
        return [i / rate for i in range(count)]
    rng = random.Random(seed)
    times = [0.0]
    while len(times) < count:
        times.append(times[-1] + rng.expovariate(rate))
    return times[:count]
