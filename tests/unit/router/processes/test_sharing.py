"""Several processes of one router, without the processes: the same objects, and every frame that would cross."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tercet.core.hashing import CHUNK_HASH_BYTES
from tercet.core.route import Route
from tercet.core.stage import ROLE_STAGES, Mode
from tercet.http.server import Request
from tercet.router.config import RouterConfig
from tercet.router.processes.main import MainRouter, Peer
from tercet.router.processes.member import MemberRouter
from tercet.router.processes.wire import Kind, decode
from tercet.routing.breaker import OPEN
from tercet.routing.events import (
    CacheCleared,
    CacheStored,
    ConversationRecorded,
    Finished,
    FirstToken,
    ModeChanged,
    ModelsListed,
    PairHealth,
    PicturesHeld,
    Prefilled,
    PrefixLost,
    RankHealth,
    RankRestarted,
    Routed,
    WorkerAdded,
    WorkerRemoved,
)
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tests.unit.routing.fleets import MODEL, chat

PREFILL = ("http://p0:1", "http://p1:1")
DECODE = ("http://d0:1", "http://d1:1")


class Line:
    """Stands for one direction of a pipe: frames wait until they are delivered, in order."""

    def __init__(self) -> None:
        self.frames: deque[tuple[Kind, bytes]] = deque()
        self.waiting_bytes = 0

    def send(self, kind: Kind, body: bytes = b"") -> None:
        self.frames.append((kind, body))

    def close(self) -> None:
        self.frames.clear()


class Family:
    """A main process and members, whose frames arrive when the test says so."""

    def __init__(self, members: int = 3) -> None:
        config = RouterConfig(mode=Mode.PD, prefill=PREFILL, decode=DECODE, processes=members)
        self.config = config
        self.main = MainRouter(config)
        self.members: dict[int, MemberRouter] = {}
        self.up: dict[int, Line] = {}
        self.down: dict[int, Line] = {}
        self.peers: dict[int, Peer] = {}
        for process in range(members):
            self.join(process)
        for url in (*PREFILL, *DECODE):
            self.main.parts.fleet.apply(ModelsListed(url, (MODEL,)))
            self.main.parts.fleet.apply(RankHealth(url, True))
        for p in PREFILL:
            for d in DECODE:
                self.main.parts.fleet.apply(PairHealth(p, d, True))
        self.settle()

    def join(self, process: int) -> None:
        member = MemberRouter(self.config, process)
        up, down = Line(), Line()
        member.pipe = up  # type: ignore[assignment]
        peer = Peer(process, 1, 1, down)  # type: ignore[arg-type]
        self.members[process], self.up[process], self.down[process], self.peers[process] = member, up, down, peer
        self.main.joined(peer)

    def leave(self, process: int) -> None:
        self.main.left(self.peers[process])
        del self.members[process], self.up[process], self.down[process], self.peers[process]

    def deliver(self, line: int) -> bool:
        """Deliver the next frame of one of the lines; False when none waits there."""
        process, upwards = sorted(self.members)[line // 2 % len(self.members)], line % 2 == 0
        frames = (self.up if upwards else self.down)[process].frames
        if not frames:
            return False
        kind, body = frames.popleft()
        if upwards:
            self.main.heard(self.peers[process], kind, body)
        else:
            self.members[process].heard(kind, body)
        return True

    def flush(self) -> None:
        for member in self.members.values():
            member._flush()
        self.main._flush()

    def settle(self) -> None:
        for _ in range(4):
            self.flush()
            while any([self.deliver(line) for line in range(2 * len(self.members))]):
                pass

    def fleets(self) -> list[FleetState]:
        return [self.main.parts.fleet, *(member.parts.fleet for member in self.members.values())]


def known(fleet: FleetState) -> dict[str, Any]:
    """What a fleet believes, to be compared."""
    return {
        "mode": fleet.mode,
        "in_flight": fleet.in_flight,
        "models": fleet.models,
        "ready": {address: fleet.ready(address) for address in fleet.ranks},
        "labels": {address: rank.label for address, rank in fleet.ranks.items()},
        "pairs": {(p, d): fleet.paired(p, d) for p in fleet.ranks for d in fleet.ranks},
        "loads": {
            address: (load.requests, load.tokens, load.routed)
            for address, rank in fleet.ranks.items()
            if (load := fleet.load(rank))
        },
        "chunks": {address: dict(_chunks(fleet.index(address).begins)) for address in fleet.ranks},
        "pictures": {address: dict(fleet.pictures(address)._held) for address in fleet.ranks},
        "conversations": {key: asdict(value) for key, value in fleet.conversations._known.items()},
    }


def _chunks(runs: dict[bytes, Any], before: bytes = b"") -> Iterator[tuple[bytes, int]]:
    for run in runs.values():
        chunks = before + run.chunks
        for end in range(len(before) + CHUNK_HASH_BYTES, len(chunks) + 1, CHUNK_HASH_BYTES):
            yield chunks[:end], run.tokens(end // CHUNK_HASH_BYTES) if run.held else 0
        yield from _chunks(run.after, chunks)


OF_MEMBERS = ("chunks", "pictures", "conversations")


def turn(conversation: int, number: int) -> RequestFacts:
    texts = [f"conversation {conversation}: " + "word " * 150]
    for i in range(number):
        texts += [f"answer {i}", f"question {i} " + "more " * 60]
    return chat(*texts)


@pytest.fixture(autouse=True)
def _no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames leave when the test flushes, not by the event loop, which doesn't run here."""
    monkeypatch.setattr(MemberRouter, "_stir", lambda self: None)
    monkeypatch.setattr(MemberRouter, "_hurry", lambda self: None)
    monkeypatch.setattr(MainRouter, "_tell", lambda self, name, value: self._orders.append((name, value)))


def test_what_one_process_learns_all_know() -> None:
    family = Family()
    one = family.members[0].parts.fleet
    p, d = one.ranks[PREFILL[0]], one.ranks[DECODE[1]]
    facts = turn(1, 0)
    one.apply(Routed("r", Route(Mode.PD, d, p, 0, 200, 200), facts))
    family.settle()
    for fleet in family.fleets():
        assert (fleet.load(fleet.ranks[p.address]).requests, fleet.load(fleet.ranks[p.address]).tokens) == (1, 200)
        assert fleet.in_flight == 1
    one.apply(Prefilled("r", 210))
    one.apply(FirstToken("r", 210, 0))
    one.apply(Finished("r"))
    one.apply(ConversationRecorded(facts, d.address, 210, 9))
    one.apply(PicturesHeld(d.address, MODEL, (("key", 16),)))
    family.settle()
    later = turn(1, 1)
    members = family.fleets()[1:]
    for fleet in members:
        found = fleet.conversations.find(later)
        assert found is not None and found.conversation.address == d.address
        assert fleet.holding(later, d, found).held >= 210
        assert fleet.holding(later, p, found).held > 0
        assert fleet.in_flight == 0 and "key" in fleet.pictures(d.address)
    family.members[2].parts.fleet.apply(PrefixLost(later, d.address))
    family.settle()
    assert all(fleet.conversations.find(later) is None for fleet in members)


ACTIONS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 5), st.integers(0, 7)), max_size=60)


@settings(max_examples=100, deadline=None)
@given(ACTIONS)
@example([(0, 2, 0), (6, 0, 0), (9, 0, 6), (9, 0, 6), (7, 0, 4), (10, 2, 0)])  # a worker left and came back
def test_once_everything_is_delivered_all_believe_the_same(actions: list[tuple[int, int, int]]) -> None:
    """Whatever the order in which frames cross. A conversation is at one process at a time, as its turns follow each
    other; workers come, go, restart and lose their caches in between, and processes die."""
    family = Family()
    under_way: dict[tuple[int, str], tuple[int, RequestFacts]] = {}
    turns = [0] * 6
    for number, (action, which, other) in enumerate(actions):
        process = sorted(family.members)[which % len(family.members)]
        fleet, main = family.members[process].parts.fleet, family.main.parts.fleet
        conversation = 2 * process + other % 2 if process < 3 else 0
        if action <= 2:
            ps, ds = fleet.candidates("P", MODEL), fleet.candidates("D", MODEL)
            if ps and ds:
                facts = turn(conversation, turns[conversation] % 3)
                way = Route(Mode.PD, ds[other % len(ds)], ps[which % len(ps)], 0, 50, 100)
                under_way[process, str(number)] = (conversation, facts)
                fleet.apply(Routed(str(number), way, facts))
        elif action <= 5 and under_way:
            at, name = sorted(under_way)[other % len(under_way)]
            fleet = family.members[at].parts.fleet
            flight = fleet._in_flight.find(name)
            assert flight is not None
            if action == 3:
                fleet.apply(Prefilled(name, 111))
            elif action == 4:
                fleet.apply(FirstToken(name, 112, 5))
            else:
                conversation, facts = under_way.pop((at, name))
                fleet.apply(Finished(name))
                if flight.route.decode.address in fleet.ranks:
                    fleet.apply(ConversationRecorded(facts, flight.route.decode.address, 112, 7))
                    turns[conversation] += 1
        elif action == 6:
            family.flush()
        elif action == 7:
            for _ in range(3):
                family.deliver(which + other)
        elif action == 8:
            main.apply(ModeChanged((Mode.PD, Mode.PPD)[other % 2]))
        elif action == 9:
            address = DECODE[other % 2]
            if other < 4 and address in main.ranks:
                main.apply(RankRestarted(address))
                main.apply(RankHealth(address, True))
            elif other < 6:
                main.apply(CacheCleared(address if other == 4 else None))
            elif address in main.workers:
                main.apply(WorkerRemoved(address))
            else:
                main.apply(WorkerAdded(address, ROLE_STAGES["D"]))
                main.apply(ModelsListed(address, (MODEL,)))
                main.apply(RankHealth(address, True))
        elif action == 10 and other == 0 and len(family.members) > 1:
            family.leave(process)
            under_way = {key: value for key, value in under_way.items() if key[0] != process}
        elif action == 11:
            fleet.apply(RankHealth(DECODE[other % 2], False))
    family.settle()
    at_main, first, *others = map(known, family.fleets())
    for each in others:
        assert each == first
    for what in OF_MEMBERS:  # the main process routes nothing
        at_main[what] = first[what]
    assert at_main == first
    left = sum(at in family.members for at, _ in under_way)
    assert first["in_flight"] == left


def test_a_process_that_dies_takes_its_requests_along_and_who_comes_later_knows_workers_and_loads() -> None:
    family = Family()
    for process, member in family.members.items():
        fleet = member.parts.fleet
        fleet.apply(Routed("r", Route(Mode.PD, fleet.ranks[DECODE[0]], fleet.ranks[PREFILL[0]], 0, 9, 9), turn(1, 0)))
        member.parts.visits[DECODE[0]] += 1
        member.parts.handoffs._taken[DECODE[0]] = 1
        assert process in family.peers
    family.main.parts.fleet.apply(WorkerAdded("http://d2:1", ROLE_STAGES["D"]))
    family.main.parts.fleet.apply(WorkerRemoved(DECODE[1]))
    family.settle()
    main = family.main.parts
    assert (main.fleet.in_flight, main.visits[DECODE[0]], main.handoffs.unaccepted(DECODE[0])) == (3, 3, 3)
    family.leave(1)
    family.settle()
    assert (main.fleet.in_flight, main.visits[DECODE[0]], main.handoffs.unaccepted(DECODE[0])) == (2, 2, 2)
    family.join(1)
    family.settle()
    assert [rank.label for rank in family.members[1].parts.fleet.ranks.values()] == ["P0", "P1", "D0", "D2"]
    for fleet in family.fleets():
        assert (fleet.in_flight, fleet.load(fleet.ranks[DECODE[0]]).requests) == (2, 2)


def test_failures_add_up_over_processes_and_a_probe_closes_the_breaker_for_all() -> None:
    family = Family()
    breakers = [member.parts.breakers for member in family.members.values()]
    opened = []
    for i in range(family.config.breaker_failures):
        opened.append(breakers[i % 3].failed(DECODE[0], 1.0))
        family.settle()
    assert opened == [False] * 4 + [True]
    assert [b.state(DECODE[0]) for b in (*breakers, family.main.parts.breakers)] == [OPEN] * 4
    assert not any(fleet.ready(DECODE[0]) for fleet in family.fleets())
    family.main.parts.breakers.close(DECODE[0])
    family.settle()
    assert [b.state(DECODE[0]) for b in breakers] == [0] * 3
    breakers[0].failed(DECODE[0], 1.0)
    family.settle()
    breakers[1].served(DECODE[0])  # it counts anew, for all
    family.settle()
    for _ in range(4):
        assert not breakers[2].failed(DECODE[0], 1.0)


def test_news_that_can_not_be_told_cost_only_themselves() -> None:
    family = Family()
    one = family.members[0].parts.fleet
    rank = one.ranks[DECODE[0]]
    one.apply(Routed("r", Route(Mode.PPD, rank, uncached=5), turn(1, 0)))
    one.apply(ConversationRecorded(turn(1, 0), rank.address, 10**30, 1))
    family.settle()
    assert [fleet.in_flight for fleet in family.fleets()] == [1, 1, 1, 1]


def test_settings_and_ports_reach_all() -> None:
    family = Family()
    wanted: dict[str, float | str | None] = {
        "idle_timeout": 77.0,
        "connect_timeout": 9,
        "balancer": "round_robin",
        "breaker_failures": 1,
    }
    family.main.parts.live.take(family.config, wanted)
    family.main.parts.ports["http://x:1"] = 99
    family.settle()
    for member in family.members.values():
        assert member.parts.live.idle_timeout_s == 77.0 and member.parts.ports["http://x:1"] == 99
        assert member.parts.client.connect_timeout_s == 9 and member.parts.policy.balancer == "round_robin"
        assert member.parts.breakers.failed("x", 0.0), "the first failure opens it"


def test_counts_are_summed_once() -> None:
    family = Family()
    for member in family.members.values():
        member.parts.metrics.requests.add("pd", "200")
        member.parts.metrics.duration.add(("pd", "D0", "first"), 0.02)
        member.parts.metrics.routed("pd", "P0>D0", "split")
    for _ in range(3):
        for member in family.members.values():
            member._report(0, with_records=False)
        family.settle()
    metrics = family.main.parts.metrics
    assert metrics.requests.values[("pd", "200")] == 3
    assert metrics.duration.values[("pd", "D0", "first")][-1] == pytest.approx(0.06)
    assert metrics.summary()["pd"]["routes"] == {"P0>D0": 3}


async def test_a_fault_in_an_answer_is_a_500_and_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family(1)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(family.main, "handle", broken)
    request: tuple[Any, ...] = ("GET", "/mode", "/mode", "", {}, b"", "127.0.0.1", 0)
    assert Request(*request).path == "/mode"
    await family.main._answer(family.peers[0], (7, *request))
    kind, body = family.down[0].frames.pop()
    number, status, *_ = decode(body)
    assert (kind, number, status) == (Kind.ANSWER, 7, 500)


def test_a_prompt_s_pieces_are_told_once_and_again_only_if_its_length_was_not_known() -> None:
    for at_first, again in ((210, b""), (None, turn(1, 0).chunks)):
        family = Family(1)
        member = family.members[0]
        fleet, facts, d = member.parts.fleet, turn(1, 0), member.parts.fleet.ranks[DECODE[0]]
        fleet.apply(Routed("r", Route(Mode.PPD, d, uncached=9), facts))
        fleet.apply(FirstToken("r", at_first, 0))
        fleet.apply(ConversationRecorded(facts, d.address, 210, 9))
        stored, recorded = member._news
        assert isinstance(stored, CacheStored) and isinstance(recorded, ConversationRecorded)
        assert (stored.facts.chunks, recorded.facts.chunks, recorded.facts.own) == (facts.chunks, again, facts.own)
