"""Paired ratios, against published values and against chance."""

from __future__ import annotations

import math
import random

import pytest

from tercet.compare.statistics import holm, incomplete_beta, paired_logs, paired_ratio, student, two_sided_p


@pytest.mark.parametrize(
    ("freedom", "t", "p"),
    [(1, 12.706, 0.05), (2, 4.303, 0.05), (4, 2.776, 0.05), (4, 8.610, 0.001), (30, 2.042, 0.05), (9, 0.0, 1.0)],
)
def test_p_values_against_printed_tables(freedom: int, t: float, p: float) -> None:
    assert two_sided_p(t, freedom) == pytest.approx(p, rel=0.003)
    assert two_sided_p(-t, freedom) == pytest.approx(p, rel=0.003)


@pytest.mark.parametrize(("level", "freedom", "t"), [(0.05, 4, 2.776), (0.01, 4, 4.604), (0.001, 9, 4.781), (1, 3, 0)])
def test_quantiles_against_printed_tables(level: float, freedom: int, t: float) -> None:
    assert student(level, freedom) == pytest.approx(t, abs=5e-4)


def test_an_interval_of_another_level_leaves_out_zero_below_it() -> None:
    found = paired_logs([0.1, 0.12, 0.05, 0.11])
    assert found is not None
    assert found.half_at(0.05) == pytest.approx(found.half, rel=1e-3)
    assert found.half_at(found.p) == pytest.approx(found.mean)
    certain = paired_logs([0.1, 0.1, 0.1])
    assert certain is not None and certain.half_at(0.05) == pytest.approx(0, abs=1e-12)


def test_the_incomplete_beta_function_where_it_is_known_exactly() -> None:
    # I_x(1, b) = 1 - (1 - x)^b, I_x(a, 1) = x^a, I_x(1/2, 1/2) = 2 asin(sqrt(x)) / pi.
    for x in (0.001, 0.2, 0.5, 0.9, 0.9999):
        assert incomplete_beta(1.0, 3.5, x) == pytest.approx(1 - (1 - x) ** 3.5, rel=1e-10)
        assert incomplete_beta(4.0, 1.0, x) == pytest.approx(x**4, rel=1e-10)
        assert incomplete_beta(0.5, 0.5, x) == pytest.approx(2 * math.asin(math.sqrt(x)) / math.pi, rel=1e-10)
    assert (incomplete_beta(2.0, 3.0, 0.0), incomplete_beta(2.0, 3.0, 1.0)) == (0.0, 1.0)


def test_the_interval_is_students() -> None:
    found = paired_ratio([2.2, 2.0, 1.8], [1.0, 1.0, 1.0])
    assert found is not None
    assert found.ratio == pytest.approx((2.2 * 2.0 * 1.8) ** (1 / 3))
    logs = [math.log(v) for v in (2.2, 2.0, 1.8)]
    mean = sum(logs) / 3
    half = 4.303 * math.sqrt(sum((v - mean) ** 2 for v in logs) / 2) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((math.exp(mean - half), math.exp(mean + half)))


def test_too_few_pairs_give_nothing() -> None:
    assert paired_ratio([1.0, 1.0], [1.0, 2.0]) is None


def test_runs_that_agree_exactly_are_certain() -> None:
    same, other = paired_logs([0.0, 0.0, 0.0]), paired_logs([0.1, 0.1, 0.1])
    assert same is not None and other is not None
    assert (same.p, same.low, same.high) == (1.0, 1.0, 1.0)
    assert other.p < 1e-9


@pytest.mark.parametrize("count", [3, 5, 12])
def test_noise_alone_is_called_a_difference_one_time_in_twenty(count: int) -> None:
    rng = random.Random(7)
    found = [paired_logs([rng.gauss(0, 1) for _ in range(count)]) for _ in range(4000)]
    false = sum(each is not None and each.p < 0.05 for each in found)
    missed = sum(each is not None and not each.mean - each.half <= 0 <= each.mean + each.half for each in found)
    assert false == pytest.approx(200, abs=60)
    assert abs(false - missed) <= 2, "interval and p-value say the same"


def test_holm_against_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
