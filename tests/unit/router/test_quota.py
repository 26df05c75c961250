from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.api_keys import ApiKey
from tercet.core.errors import RequestError
from tercet.router.quota import Quotas


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _wait(quotas: Quotas, key: ApiKey) -> float:
    with pytest.raises(RequestError) as caught:
        quotas.enter(key)
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_requests_a_minute() -> None:
    clock, key = Clock(), ApiKey("a", "d", requests_per_minute=30)
    quotas = Quotas(clock)
    for _ in range(30):
        quota = quotas.enter(key)
        assert quota is not None
        quota.leave(10**9)
    assert _wait(quotas, key) == 2.0
    clock.now += 2.0
    assert quotas.enter(key) is not None
    assert _wait(quotas, key) == 2.0
    clock.now += 3600  # no more than a minute's worth is saved up
    for _ in range(30):
        quotas.enter(key)
    _wait(quotas, key)


def test_tokens_may_be_overdrawn_once_and_are_then_waited_for() -> None:
    clock, key = Clock(), ApiKey("a", "d", tokens_per_minute=600)
    quotas = Quotas(clock)
    quota = quotas.enter(key)
    assert quota is not None
    quota.leave(1200)
    assert _wait(quotas, key) == pytest.approx(60.1)
    clock.now += 60.2
    assert quotas.enter(key) is not None


def test_at_once() -> None:
    quotas, key = Quotas(Clock()), ApiKey("a", "d", concurrent=2)
    first = quotas.enter(key)
    quotas.enter(key)
    assert _wait(quotas, key) == 1.0
    assert first is not None
    first.leave(0)
    quotas.enter(key)
    assert quotas.enter(ApiKey("free", "e")) is None


def test_changed_limits_count_from_now() -> None:
    quotas, key = Quotas(Clock()), ApiKey("a", "d", requests_per_minute=1)
    quotas.enter(key)
    _wait(quotas, key)
    quotas.enter(replace(key, requests_per_minute=2))
    quotas.keep(set())
    assert quotas.enter(replace(key, requests_per_minute=2)) is not None


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=60), st.integers(1, 100))
def test_nobody_gets_more_than_the_limit_and_one_request(steps: list[tuple[float, int]], limit: int) -> None:
    clock, key = Clock(), ApiKey("a", "d", tokens_per_minute=limit)
    quotas, spent, largest = Quotas(clock), 0, 0
    for pause, tokens in steps:
        clock.now += pause
        try:
            quota = quotas.enter(key)
        except RequestError:
            continue
        assert quota is not None
        quota.leave(tokens)
        spent, largest = spent + tokens, max(largest, tokens)
    assert spent <= limit + (clock.now - 1000.0) * limit / 60 + largest + 1e-6


def test_what_other_processes_spend_counts_and_what_a_dead_one_had_under_way_does_not() -> None:
    clock = Clock()
    key = ApiKey("a", "d", requests_per_minute=10, tokens_per_minute=100, concurrent=3)
    here, there = Quotas(clock), Quotas(clock)
    there.tell = lambda quota, requests, tokens: here.told(key, 1, requests, tokens, quota.in_flight)
    clock.now += 3600  # full, and long not looked at
    entered = [there.enter(key) for _ in range(2)]
    first = here.enter(key)
    assert first is not None
    assert _wait(here, key) == 1.0, "three at once"
    for quota in entered:
        assert quota is not None
        quota.leave(0)
    for _ in range(7):
        quota = here.enter(key)
        assert quota is not None
        quota.leave(0)
    assert _wait(here, key) == 6.0, "ten a minute"
    clock.now += 6
    quota = there.enter(key)
    assert quota is not None
    quota.leave(150)
    clock.now += 20
    assert _wait(here, key) > 5.0, "more tokens than a minute's"
    here.withdraw(1)
    clock.now += 60
    there.enter(key), there.enter(key)
    assert _wait(here, key) == 1.0
    here.withdraw(1)
    assert here.enter(key) is not None


def test_what_is_under_way_counts_under_limits_that_changed() -> None:
    quotas, key = Quotas(Clock()), ApiKey("a", "d", concurrent=2)
    told: list[int] = []
    quotas.tell = lambda quota, requests, tokens: told.append(quota.in_flight)
    first, second = quotas.enter(key), quotas.enter(key)
    tighter = ApiKey("a", "d", concurrent=1, requests_per_minute=60)
    with pytest.raises(RequestError, match="1 requests at once"):
        quotas.enter(tighter)
    assert first is not None and second is not None
    first.leave(0)
    second.leave(0)
    assert quotas.enter(tighter) is not None
    assert told == [1, 2, 1, 0, 1]
