from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import msgpack
import pytest

from tercet.worker.channel import ChannelError, EngineChannel, FrontChannel, Message, Unpacker, pack


def test_messages_are_cut_wherever_the_bytes_are() -> None:
    messages: list[Message] = [{"op": "a", "n": list(range(300))}, {"op": "b", "b": b"\xff"}]
    data = b"".join(map(pack, messages))
    for step in (1, 7, len(data)):
        unpacker = Unpacker()
        assert [m for i in range(0, len(data), step) for m in unpacker.feed(data[i : i + step])] == messages


@pytest.mark.parametrize("data", [msgpack.packb([1, 2]), b"\xc1", msgpack.packb(5)])
def test_what_is_no_map_is_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        Unpacker().feed(data)


class Front:
    """A front's end whose messages are collected."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.news = asyncio.Event()
        self.channel = FrontChannel(self._take)

    def _take(self, message: Message) -> None:
        if message.get("bad"):
            raise ValueError("a fault of whoever listens")
        self.got.append(message)
        self.news.set()

    async def connect(self) -> EngineChannel:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, sock=ours)
        return EngineChannel(theirs, send_timeout_s=0.2)


async def test_both_ways_and_the_end() -> None:
    front = Front()
    engine = await front.connect()
    assert engine.receive() == []
    await front.channel.send({"op": "one"})
    front.channel.send_now({"op": "two"})
    assert [m["op"] for m in engine.receive()] == ["one", "two"]
    before = time.monotonic()
    engine.send({"op": "three"})
    await asyncio.wait_for(front.news.wait(), 30)
    assert front.got == [{"op": "three"}] and front.channel.silent_s < time.monotonic() - before
    engine.close()
    await asyncio.wait_for(front.channel.closed.wait(), 30)
    await front.channel.send({"op": "nobody hears this"})


async def test_the_engine_learns_that_the_front_is_gone() -> None:
    front = Front()
    engine = await front.connect()
    front.channel.close()
    await asyncio.sleep(0.01)
    with pytest.raises(ChannelError, match="gone"):
        engine.receive()
    with pytest.raises(ChannelError, match="gone"):
        engine.send({"op": "x"})
    engine.close()


async def test_a_listener_that_fails_ends_the_channel() -> None:
    front = Front()
    engine = await front.connect()
    engine.send({"bad": True})
    await asyncio.wait_for(front.channel.closed.wait(), 30)
    engine.close()


def test_a_front_that_does_not_read_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    engine = EngineChannel(theirs, send_timeout_s=0.1)
    started = time.monotonic()
    with ours, pytest.raises(ChannelError, match="read nothing"):
        while True:
            engine.send({"x": b"\0" * 100_000})
    assert time.monotonic() - started < 20, "and not the 60 s that is the rule"
    engine.close()


def test_a_large_message_waits_for_its_reader() -> None:
    ours, theirs = socket.socketpair()
    engine = EngineChannel(theirs, send_timeout_s=60)
    message: dict[str, Any] = {"x": b"\1" * 3_000_000}
    sender = threading.Thread(target=engine.send, args=(message,))
    sender.start()
    unpacker = Unpacker()
    got: list[Message] = []
    with ours:
        while not got:
            got = unpacker.feed(ours.recv(50_000))
    sender.join(60)
    assert got == [message]
    engine.close()


async def test_submissions_wait_while_the_engine_does_not_read() -> None:
    front = Front()
    engine = await front.connect()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for _ in range(200):
            await front.channel.send({"x": b"\0" * 100_000})
            sent += 1

    task = asyncio.create_task(flood())
    await asyncio.sleep(0.1)
    assert sent < 50
    while not task.done():
        engine.receive()
        await asyncio.sleep(0)
    assert sent == 200
    front.channel.close()
    engine.close()
