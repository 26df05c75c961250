"""Arrival times."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator

import pytest

from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals, arrivals


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert _first(4, arrivals(Arrivals.CONSTANT, 2.0, 0)) == [0.0, 0.5, 1.0, 1.5]


def test_poisson_gaps_have_the_rate_and_spread_of_an_exponential() -> None:
    times = _first(5001, arrivals(Arrivals.POISSON, 5.0, 3))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] == 0.0
    assert min(gaps) > 0
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_keep_the_rate_and_spread_as_the_burstiness_says(burstiness: float) -> None:
    steady = arrivals(Arrivals.GAMMA, 5.0, 3, burstiness=burstiness)
    gaps = [b - a for a, b in itertools.pairwise(itertools.islice(steady, 20_001))]
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.2 / math.sqrt(burstiness), rel=0.07)


def test_a_ramp_rises_evenly_to_the_rate() -> None:
    times = list(itertools.islice(arrivals(Arrivals.CONSTANT, 10.0, 0, ramp_s=4.0), 60))
    assert times == sorted(times)
    # 10 a second reached after 4 s: 1.25 have come after 1 s, 5 after 2, 20 after 4, then 10 a second.
    counts = [sum(0 < time <= end for time in times) for end in (1, 2, 4, 5, 6)]
    assert counts == [1, 5, 20, 30, 40]


def test_the_seed_decides_poisson_arrivals() -> None:
    first, again, other = (_first(5, arrivals(Arrivals.POISSON, 1.0, seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_not_positive_and_finite_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="above 0"):
        arrivals(Arrivals.CONSTANT, rate, 0)


def _first(number: int, times: Iterator[float]) -> list[float]:
    return list(itertools.islice(times, number))
