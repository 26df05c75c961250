"""What a process may cost the others: numbers without bound, bodies, a main process that does not read, lateness."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tercet.core.api_keys import ApiKey
from tercet.core.errors import RequestError
from tercet.core.route import Route
from tercet.core.stage import Mode
from tercet.http.server import Request
from tercet.router.processes import fleet as fleets
from tercet.router.processes import main, member
from tercet.router.processes.main import Kept, MainRouter
from tercet.router.processes.member import MemberRouter
from tercet.router.processes.wire import LEAST, MOST, Kind, decode, encode
from tercet.router.quota import Quota
from tercet.routing.events import (
    CacheSized,
    CacheStored,
    ConversationRecorded,
    Finished,
    FirstToken,
    KvTold,
    Routed,
    WorkerRemoved,
)
from tercet.routing.kv_events import BlocksCleared, BlocksHeld, BlocksRemoved, BlocksStored
from tests.unit.router.processes.test_sharing import DECODE, PREFILL, Family, turn


@pytest.fixture(autouse=True)
def _no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames leave when the test flushes."""
    monkeypatch.setattr(MemberRouter, "_stir", lambda self: None)
    monkeypatch.setattr(MemberRouter, "_hurry", lambda self: None)
    monkeypatch.setattr(MainRouter, "_tell", lambda self, name, value: self._orders.append((name, value)))


def begin(router: MemberRouter, name: str = "r") -> None:
    fleet = router.parts.fleet
    way = Route(Mode.PPD, fleet.ranks[DECODE[0]], uncached=9)
    fleet.apply(Routed(name, way, turn(1, 0)))


def quota(in_flight: int = 0) -> Quota:
    found = Quota(ApiKey("k", "d" * 64, tokens_per_minute=10), 0.0)
    found.in_flight = in_flight
    return found


def test_an_integer_beyond_64_bits_is_told_as_the_nearest() -> None:
    assert decode(encode({"a": [10**30, -(10**30), True, 7], 10**30: 0})) == {"a": (MOST, LEAST, True, 7), MOST: 0}
    family = Family(2)
    one = family.members[0]
    one._tell_spent(quota(), 0, 10**30)
    begin(one)
    one.parts.metrics.prompt_tokens.values["pd", "D0", "first"] += 10**30
    one._report(0, with_records=False)
    family.settle()
    assert [fleet.in_flight for fleet in family.fleets()] == [1, 1, 1]
    assert family.main.parts.metrics.prompt_tokens.values["pd", "D0", "first"] == MOST


@pytest.mark.parametrize("of_main", [True, False])
async def test_a_round_that_fails_is_not_the_last(of_main: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "REPORT_S", 0.0)
    monkeypatch.setattr(main, "TICK_S", 0.0)
    family, rounds, again = Family(1), 0, asyncio.Event()

    def flush() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise ZeroDivisionError
        again.set()

    router: Any = family.main if of_main else family.members[0]
    monkeypatch.setattr(router, "_flush", flush)
    task = asyncio.create_task(router._tick() if of_main else router._report_always())
    try:
        async with asyncio.timeout(30):
            await again.wait()
    finally:
        task.cancel()


def test_nothing_is_kept_of_a_request_that_is_over() -> None:
    family = Family(1)
    one = family.members[0]
    fleet = one._fleet
    for i in range(3):  # cut off, that is without a conversation
        begin(one, str(i))
        fleet.apply(FirstToken(str(i), 210, 0))
        assert len(fleet._stored) == 1
        fleet.apply(Finished(str(i)))
        assert not fleet._stored
    facts = turn(2, 0)
    fleet.apply(Routed("r", Route(Mode.PPD, fleet.ranks[DECODE[0]], uncached=9), facts))
    fleet.apply(FirstToken("r", 210, 0))
    fleet.apply(ConversationRecorded(facts, DECODE[0], 210, 9))
    fleet.apply(Finished("r"))
    stored, recorded = one._news[-2:]
    assert isinstance(stored, CacheStored) and isinstance(recorded, ConversationRecorded)
    assert stored.facts.chunks and not recorded.facts.chunks and not fleet._stored


def request(method: str, path: str, body: bytes = b"", request_id: str | None = None) -> Request:
    headers = {} if request_id is None else {"x-request-id": request_id}
    return Request(method, path, path, "", headers, body, "127.0.0.1", 0)


async def test_the_main_process_gets_bodies_only_where_it_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family(1)
    monkeypatch.setattr(member, "QUESTION_S", 0.0)
    one, up, answer = family.members[0], family.up[0], Kept()
    await one.handle(request("POST", "/metrics", bytes(2 << 20)), answer)
    assert answer.status == 405 and answer.answer is not None and ("Allow", "GET, HEAD") in answer.answer[1]
    answer = Kept()
    await one.handle(request("POST", "/workers", bytes((1 << 20) + 1)), answer)
    assert answer.status == 413 and not up.frames
    for path, body in (("/workers", b"{}"), ("/metrics/clear", b"")):
        answer = Kept()
        await one.handle(request("POST", path, b"{}"), answer)
        kind, frame = up.frames.pop()
        assert answer.status == 503 and kind is Kind.QUESTION
        assert Request(*decode(frame)[1:]).body == body


async def test_the_main_process_answers_with_the_id_that_the_asked_one_logs() -> None:
    family = Family(1)
    one = family.members[0]
    for asked in (None, "asked"):
        answer = Kept()
        task = asyncio.create_task(one.handle(request("GET", "/v1/models/none", request_id=asked), answer))
        while not family.up[0].frames:
            await asyncio.sleep(0)
        _, frame = family.up[0].frames.popleft()
        question = decode(frame)
        await family.main._answer(family.peers[0], question)
        family.settle()
        await task
        assert answer.status == 404 and answer.answer is not None
        ids = [value for name, value in answer.answer[1] if name == "X-Request-Id"]
        assert ids == [Request(*question[1:]).headers["x-request-id"]]
        assert ids == [asked] or asked is None


async def test_a_main_process_that_does_not_read_is_told_nothing_until_it_does() -> None:
    family = Family(2)
    one, up = family.members[0], family.up[0]
    up.waiting_bytes = member.MAX_UNREAD + 1
    begin(one)
    one._fleet.apply(FirstToken("r", 210, 0))
    one.parts.metrics.requests.add("pd", "200")
    for i in range(10_000):
        one._tell_spent(quota(i), 1, 5)
        one._tell_failure(True, DECODE[1])
        one._flush()
    one._report(0, with_records=True)
    one._suspect(DECODE[0])
    with pytest.raises(RequestError) as refused:
        await one._ask(request("GET", "/status"), Kept(), "id")
    assert refused.value.status == 503
    assert not up.frames and not one._news and len(one._told) == member.MAX_TOLD
    up.waiting_bytes = 0
    one._flush()
    kind, frame = up.frames[0]
    told = decode(frame)[6]
    assert kind is Kind.NEWS and told[-1] == ("spent", "d" * 64, 10_000, 50_000, 9_999)
    one._report(0, with_records=True)
    family.settle()
    assert [fleet.in_flight for fleet in family.fleets()] == [1, 1, 1]
    assert family.main.parts.metrics.requests.values["pd", "200"] == 1


FIRST = BlocksStored((b"a", 7), None, (1, 2, 3, 4), 2)


def matched(family: Family) -> list[int | None]:
    tokens = list(range(1, 9))
    blocks = [fleet._blocks.get(DECODE[0]) for fleet in family.fleets()]
    return [None if known is None else known.match(tokens) for known in blocks]


def test_who_comes_late_knows_what_engines_said_of_their_caches() -> None:
    family = Family(2)
    fleet = family.main.parts.fleet
    fleet.apply(KvTold(DECODE[0], (FIRST, BlocksStored((b"gone",), 7, (5, 6), 2), BlocksRemoved((b"gone",)))))
    family.settle()
    family.leave(1)
    family.join(1)
    family.settle()
    assert matched(family) == [4, 4, 4]
    fleet.apply(KvTold(DECODE[0], (BlocksStored((b"b",), 7, (5, 6), 2),)))
    family.settle()
    assert matched(family) == [6, 6, 6] and fleet.told_blocks(DECODE[0]) == 3
    fleet.apply(KvTold(DECODE[0], (BlocksRemoved((7,)),)))
    family.settle()
    assert matched(family) == [2, 2, 2]
    assert all(PREFILL[0] not in each._blocks for each in family.fleets()), "it says nothing"


def test_who_was_not_told_what_an_engine_said_does_not_go_by_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "MAX_BLOCKS", 1)
    family = Family(2)
    fleet = family.main.parts.fleet
    fleet.apply(KvTold(DECODE[0], (FIRST,)))
    fleet.apply(KvTold(DECODE[1], (BlocksStored((b"x",), None, (1, 2), 2),)))
    family.leave(1)
    family.join(1)
    family.settle()
    late = family.members[1].parts.fleet
    assert late.told_blocks(DECODE[1]) == 1
    fleet.apply(KvTold(DECODE[0], (BlocksStored((b"b",), 7, (5, 6), 2),)))
    family.settle()
    assert matched(family) == [6, 6, None]
    fleet.apply(KvTold(DECODE[0], (BlocksCleared(), FIRST)))
    family.settle()
    assert matched(family) == [4, 4, 4]
    assert KvTold("x", (BlocksHeld((1,), b"h", 2),)) == decode(encode(KvTold("x", (BlocksHeld((1,), b"h", 2),))))


def test_sizes_are_those_of_the_process_that_knows_the_most() -> None:
    family = Family(2)
    one = family.members[0]
    begin(one)
    one._fleet.apply(FirstToken("r", 210, 0))
    one._fleet.apply(ConversationRecorded(turn(1, 0), DECODE[0], 210, 9))
    family.settle()
    family.leave(1)
    family.join(1)
    for process in (0, 1):  # the last one has only just come
        family.members[process]._report(0, with_records=True)
        family.settle()
    main_fleet = family.main.parts.fleet
    assert main_fleet.conversation_count == 1
    assert main_fleet.prefix_blocks(DECODE[0]) == one._fleet.prefix_blocks(DECODE[0]) > 0
    family.leave(0)
    assert (main_fleet.conversation_count, main_fleet.prefix_blocks(DECODE[0])) == (0, 0)


def test_nothing_is_kept_of_workers_that_left() -> None:
    family = Family(2)
    router, one = family.main, family.members[0]
    parts, peer = router.parts, family.peers[0]
    parts.fleet.apply(CacheSized(DECODE[0], 1000))
    one.parts.visits[DECODE[0]] += 2
    one.parts.handoffs._taken[DECODE[0]] = 1
    family.settle()
    assert (parts.visits[DECODE[0]], parts.handoffs.unaccepted(DECODE[0])) == (2, 1)
    one.parts.visits[DECODE[0]] -= 1
    parts.fleet.apply(WorkerRemoved(DECODE[0]))
    family.settle()
    one.parts.visits[DECODE[0]] -= 1  # what was cut off ends after it
    one.parts.handoffs.leave(DECODE[0])
    family.settle()
    kept = (one.parts.visits, one._visits, one._unaccepted, peer.visits, peer.unaccepted, parts.visits)
    assert [dict(each) for each in (*kept, parts.handoffs.elsewhere)] == [{}] * 7
    assert router._fleet._sizes == {}
