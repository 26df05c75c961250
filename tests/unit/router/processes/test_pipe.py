from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.stage import ROLE_STAGES, Mode
from tercet.router.processes.pipe import Pipe
from tercet.router.processes.wire import Kind, brief, decode, encode
from tercet.routing.events import KvTold, ModeChanged, PicturesHeld, WorkerAdded
from tercet.routing.facts import RequestFacts
from tercet.routing.kv_events import BlocksCleared, BlocksRemoved, BlocksStored
from tests.unit.routing.fleets import chat, ids, seeing, text

EVENTS = (
    WorkerAdded("http://x:1", ROLE_STAGES["A"], 2, 7),
    ModeChanged(Mode.EPPD),
    PicturesHeld("a", "m\ud800", (("key", 3),)),
    KvTold("a", (BlocksStored((b"x", 5), None, (1, 2), 1), BlocksRemoved((b"x",)), BlocksCleared())),
)


@pytest.mark.parametrize("event", EVENTS)
def test_what_is_told_comes_back_the_same(event: object) -> None:
    told = decode(encode((event, {("m", "x"): 1.5}, None)))
    assert told == (event, {("m", "x"): 1.5}, None) and type(told[0]) is type(event)


@pytest.mark.parametrize(
    "facts", [chat("a" * 600, "b", "c", session="s"), seeing("see [k]", "it"), ids(list(range(99))), text("x" * 999)]
)
def test_facts_come_back_the_same(facts: RequestFacts) -> None:
    told = brief(facts)
    assert decode(encode(told)) == told and told.ids == ()
    assert (told.chunks, told.prompt_tokens, told.own) == (facts.chunks, facts.prompt_tokens, facts.own)


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 64))
def test_frames_are_found_however_they_are_cut(bodies: list[bytes], size: int) -> None:
    got: list[tuple[Kind, bytes]] = []
    pipe = Pipe(lambda kind, body: got.append((kind, body)), lambda: None)
    sent = b"".join(len(body).to_bytes(4, "big") + bytes((Kind.NEWS,)) + body for body in bodies)
    for at in range(0, len(sent), size):
        pipe.data_received(sent[at : at + size])
    assert got == [(Kind.NEWS, body) for body in bodies]


async def test_a_frame_that_is_not_understood_ends_nothing_and_the_end_is_told() -> None:
    got: list[bytes] = []
    ended = asyncio.Event()

    def heard(kind: Kind, body: bytes) -> None:
        if body == b"bad":
            raise ZeroDivisionError
        got.append(body)

    one, other = socket.socketpair()
    here = await Pipe.over(one, heard, lambda: None)
    there = await Pipe.over(other, lambda kind, body: None, ended.set)
    there.send(Kind.NEWS, b"bad")
    there.send(Kind.NEWS, b"good")
    await there.finish(30)
    async with asyncio.timeout(30):
        while not got:
            await asyncio.sleep(0)
    assert got == [b"good"]
    here.close()
    await asyncio.wait_for(ended.wait(), 30)
