"""When conversations arrive. Open loop: no arrival ever waits for an answer."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from enum import StrEnum
from itertools import count

from tercet.core.errors import UsageError


class Arrivals(StrEnum):
    """The pattern of arrivals. `TRACE` takes them from a data set's own time stamps."""

    POISSON = "poisson"
    CONSTANT = "constant"
    GAMMA = "gamma"
    TRACE = "trace"


def arrivals(
    pattern: Arrivals, rate: float, seed: int, *, burstiness: float = 1.0, ramp_s: float = 0.0
) -> Iterator[float]:
    """Yield arrival times in seconds, rising from 0.0, at `rate` a second, without end.

    Gaps have mean 1 / rate: constant, exponential (Poisson), or gamma distributed with shape `burstiness` (1 is
    Poisson, below it come bursts, above it evenness), as `vllm bench serve` draws them. During the first `ramp_s` the
    rate rises evenly from zero. Raises UsageError when `rate` or `burstiness` isn't positive and finite.
    """
    if not 0 < rate < math.inf:
        raise UsageError(f"can't send at a rate of {rate} a second: give a number above 0")
    if not 0 < burstiness < math.inf:
        raise UsageError(f"--burstiness {burstiness} is out of range: give a number above 0, where 1 is Poisson")
    steady = _steady(pattern, rate, random.Random(seed), burstiness)
    return (_warped(time, ramp_s) for time in steady) if ramp_s > 0 else steady


def _steady(pattern: Arrivals, rate: float, rng: random.Random, burstiness: float) -> Iterator[float]:
    if pattern is Arrivals.CONSTANT:
        yield from (i / rate for i in count())
        return
    time = 0.0
    while True:
        yield time
        if pattern is Arrivals.GAMMA:
            time += rng.gammavariate(burstiness, 1 / (rate * burstiness))
        else:
            time += rng.expovariate(rate)


def _warped(time: float, ramp_s: float) -> float:
    """Return when a steady arrival at `time` comes if the rate rises from zero during `ramp_s`.

    Until then t² / (2 ramp) of a steady second's arrivals have come; after it the arrivals are half a ramp behind.
    """
    return math.sqrt(2 * ramp_s * time) if time < ramp_s / 2 else time + ramp_s / 2
