from __future__ import annotations

import asyncio

import pytest

from tercet.core.errors import RequestError
from tercet.core.route import Rank
from tercet.core.stage import Stage
from tercet.dialects.protocol import Answer, Leg
from tercet.http.client import ClientError
from tercet.router.handoffs import WAITING_PER_SLOT, Handoffs
from tercet.router.metrics import RouterMetrics

LEG = Leg(Stage.PREFILL, Rank("P", 0, "http://p:1"), "/kv/release", (), b"")


async def refuse(leg: Leg) -> Answer:
    raise AssertionError("nothing is sent in this test")


async def test_places_are_given_first_come_first_served_and_never_lost() -> None:
    handoffs = Handoffs(1, refuse, RouterMetrics())
    await handoffs.enter("d", 1)
    order: list[int] = []

    async def enter(i: int) -> None:
        await handoffs.enter("d", 5)
        order.append(i)

    tasks = [asyncio.create_task(enter(i)) for i in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    for _ in range(3):
        assert handoffs.unaccepted("d") == 1
        handoffs.leave("d")
        await asyncio.sleep(0.01)
    assert order == [0, 2, 3]
    handoffs.leave("d")
    assert handoffs.unaccepted("d") == 0
    await handoffs.enter("d", 1)
    await handoffs.enter("other", 1)


async def test_a_place_given_in_the_moment_of_giving_up_goes_back() -> None:
    handoffs = Handoffs(1, refuse, RouterMetrics())
    await handoffs.enter("d", 1)
    task = asyncio.create_task(handoffs.enter("d", 5))
    await asyncio.sleep(0)
    handoffs.leave("d")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handoffs.unaccepted("d") == 0


async def test_the_queue_for_places_is_bounded() -> None:
    handoffs = Handoffs(1, refuse, RouterMetrics())
    await handoffs.enter("d", 1)
    tasks = [asyncio.create_task(handoffs.enter("d", 5)) for _ in range(WAITING_PER_SLOT)]
    await asyncio.sleep(0)
    with pytest.raises(RequestError) as caught:
        await handoffs.enter("d", 5)
    assert caught.value.status == 503
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    handoffs.leave("d")
    assert handoffs.unaccepted("d") == 0


async def test_a_release_that_fails_is_tried_again() -> None:
    sent = 0

    async def send(leg: Leg) -> Answer:
        nonlocal sent
        sent += 1
        if sent == 1:
            raise ClientError("gone", before_first_byte=True, reason="connect")
        return Answer(200 if sent == 3 else 500, {}, b"")

    metrics = RouterMetrics()
    handoffs = Handoffs(1, send, metrics)
    handoffs.release((LEG,))
    await handoffs.close(5)
    assert sent == 3
    assert metrics.releases.values[()] == 1 and b"tercet:router_releases_total 1.0" in metrics.render()
    assert b"tercet:router_handoff_leaks_total 0.0" in metrics.render()
    assert not metrics.handoff_expiries.values


async def test_what_cannot_be_released_is_left_to_its_lease_and_counted() -> None:
    async def refuse_all(leg: Leg) -> Answer:
        return Answer(500, {}, b"")

    metrics = RouterMetrics()
    handoffs = Handoffs(1, refuse_all, metrics)
    handoffs.release((LEG,))
    await handoffs.close(5)
    assert dict(metrics.handoff_expiries.values) == {("unanswered",): 1} and metrics.handoff_leaks.values[()] == 0


async def test_a_release_that_ends_by_a_fault_of_the_router_is_a_leak() -> None:
    async def fault(leg: Leg) -> Answer:
        raise ZeroDivisionError

    metrics = RouterMetrics()
    handoffs = Handoffs(1, fault, metrics)
    handoffs.release((LEG,))
    await handoffs.close(1)
    assert metrics.handoff_leaks.values[()] == 1


async def test_closing_does_not_wait_for_ever() -> None:
    async def send(leg: Leg) -> Answer:
        await asyncio.sleep(60)
        raise AssertionError

    metrics = RouterMetrics()
    handoffs = Handoffs(1, send, metrics)
    handoffs.release((LEG,))
    async with asyncio.timeout(20):
        await handoffs.close(0.05)
    assert dict(metrics.handoff_expiries.values) == {("shutdown",): 1}
