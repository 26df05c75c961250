"""The interval of a mean, against published values."""

from __future__ import annotations

import pytest

from tercet.results.student import mean_interval, t_975


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (30, 2.042), (31, 2.040), (60, 2.0), (1000, 1.962)]
)
def test_students_t(freedom: int, t: float) -> None:
    assert t_975(freedom) == pytest.approx(t, abs=0.003)


def test_an_interval_needs_three_values() -> None:
    assert mean_interval([1.0]) == (1.0, None, None)
    assert mean_interval([1.0, 3.0]) == (2.0, None, None)
    half = 4.303 / 3**0.5
    assert list(mean_interval([1.0, 2.0, 3.0])) == pytest.approx([2.0, 2 - half, 2 + half])
