"""Paired intervals."""

from __future__ import annotations

import random

import pytest

from tercet.compare.statistics import paired_interval


def test_the_interval_is_students() -> None:
    interval = paired_interval([1.0, 2.0, 3.0])
    assert interval is not None
    assert (interval.count, interval.mean) == (3, 2.0)
    half = 4.303 * 1.0 / 3**0.5
    assert interval.low == pytest.approx(2 - half)
    assert interval.high == pytest.approx(2 + half)


def test_too_few_pairs_give_no_interval() -> None:
    assert paired_interval([]) is None
    assert paired_interval([1.0, 1.0]) is None


@pytest.mark.parametrize("count", [3, 5, 12])
def test_noise_alone_is_called_a_difference_one_time_in_twenty(count: int) -> None:
    rng = random.Random(7)
    trials = 2000
    wrong = 0
    for _ in range(trials):
        interval = paired_interval([rng.gauss(0, 1) for _ in range(count)])
        assert interval is not None
        wrong += not interval.low <= 0 <= interval.high
    assert wrong / trials == pytest.approx(0.05, abs=0.015)
