"""Whoever fails in a row gets no requests until a probe, a real inference, succeeded."""

from __future__ import annotations

import pytest

from tercet.router.retry import MAX_S, RetryPauses
from tests.unit.router.harness import routing, until


async def test_a_worker_that_says_it_is_ready_and_fails_is_taken_out_and_comes_back() -> None:
    async with routing("AA", "aggregated", breaker_failures=3, breaker_pause_s=0.2, balancer="round_robin") as setup:
        bad = setup.workers[0]
        bad.status = 500
        for _ in range(12):
            assert (await setup.complete("a b c")).status == 200
        assert len(bad.inferences) == 3, "three failures, and no more requests"
        rank = (await setup.status())["workers"][0]["ranks"][0]
        assert not rank["ready"] and rank["breaker"] in ("open", "half-open")
        assert await setup.metric("tercet:router_breaker_opened_total", where="A0") == 1
        assert await setup.metric("tercet:router_breaker_state", rank="A0") >= 1
        # The half-open breaker lets probes through, which fail, and a last one, which does not.
        probes = len(bad.seen)
        await until(lambda: len(bad.seen) >= probes + 2)
        assert len(bad.inferences) == 3
        bad.status = 200
        await setup.ready()
        assert (await setup.status())["workers"][0]["ranks"][0]["breaker"] == "closed"
        for _ in range(4):
            assert (await setup.complete("a b c")).status == 200
        assert len(bad.inferences) == 5
        await setup.idle()


async def test_a_4xx_opens_nothing_and_is_not_retried() -> None:
    async with routing("AA", "aggregated", breaker_failures=1) as setup:
        for worker in setup.workers:
            worker.status = 422
        for _ in range(4):
            assert (await setup.complete("a b c")).status == 422
        assert sum(len(worker.inferences) for worker in setup.workers) == 4
        assert await setup.metric("tercet:router_breaker_opened_total") == 0
        assert all(worker["ready"] for worker in (await setup.status())["workers"])


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_ends_with_error_is_counted(stream: bool) -> None:
    async with routing("A", breaker_failures=2, breaker_pause_s=30.0) as setup:
        setup.workers[0].finish = "error"
        for _ in range(2):
            await setup.complete("a b c", stream=stream)
        got = await setup.complete("a b c", stream=stream)
        assert got.status == 503 and got.error["code"] == "no_worker_ready"
        assert len(setup.workers[0].inferences) == 2


async def test_a_pair_opens_alone_when_only_what_crosses_it_fails() -> None:
    async with routing("PPD", "pd", breaker_failures=3, breaker_pause_s=0.2, max_retries=0) as setup:
        decode, bad = setup.role("D")[0], setup.role("P")[0]
        decode.refused_from = bad.url
        statuses = [(await setup.complete(f"{i} b c")).status for i in range(16)]
        assert statuses.count(500) == 3 and statuses[-6:] == [200] * 6
        pairs = {pair["pair"]: pair for pair in (await setup.status())["pairs"]}
        assert not pairs["P0>D0"]["ready"] and pairs["P1>D0"]["ready"]
        assert pairs["P0>D0"]["breaker"] in ("open", "half-open")
        assert all(worker["ready"] for worker in (await setup.status())["workers"])
        assert await setup.metric("tercet:router_pair_breaker_state", pair="P0>D0") >= 1
        decode.refused_from = ""
        await setup.ready()
        assert (await setup.status())["pairs"][0]["breaker"] == "closed"
        await setup.idle()


def test_pauses_are_drawn_from_bounds_that_double() -> None:
    pauses = RetryPauses(1)
    drawn = {n: [pauses.after(n) for _ in range(200)] for n in (1, 2, 20)}
    assert max(drawn[1]) <= 0.02 < max(drawn[2]) <= 0.04 and max(drawn[20]) <= MAX_S
    assert min(drawn[20]) < 0.05 and len(set(drawn[1])) == 200
