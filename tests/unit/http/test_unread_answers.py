"""Clients that ask on and on without reading what they are answered."""

from __future__ import annotations

import asyncio
import json

import pytest

from tercet.http.server import Request, Responder

from .wires import connect, serving, settled, until

MEGABYTE = 1 << 20
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
HELD = 40
"""More answers of a megabyte than the two sockets and both ends hold."""


class Large:
    """Answers with a megabyte, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    async def handle(self, request: Request, responder: Responder) -> None:
        self.asked += 1
        if request.query == "stream":
            responder.start(200)
            for _ in range(16):
                responder.write(b"x" * (MEGABYTE // 16))
                await responder.drain()
            return
        await responder.send(200, b"x" * MEGABYTE)


@pytest.mark.parametrize("request_bytes", [GET, POST, GET.replace(b"/ ", b"/?stream ")])
@pytest.mark.parametrize("at_once", [True, False])
async def test_who_does_not_read_is_answered_no_more_and_cut(request_bytes: bytes, at_once: bool) -> None:
    large = Large()
    async with serving(large.handle, write_timeout_s=1.0) as server:
        raw = await connect(server)
        if at_once:
            raw.writer.write(request_bytes * 1000)
        for _ in range(0 if at_once else 100):
            raw.writer.write(request_bytes)
            await asyncio.sleep(0.002)
        await until(lambda: large.asked > 1)
        assert await settled(lambda: large.asked) < HELD
        await until(lambda: not server.connections.members)
        raw.close()


async def test_who_reads_late_gets_all_he_asked_for() -> None:
    large = Large()
    async with serving(large.handle) as server:
        raw = await connect(server)
        raw.writer.write(GET * 60 + POST + b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        await until(lambda: large.asked > 1)
        assert await settled(lambda: large.asked) < HELD
        for _ in range(62):
            status, _, body = await raw.answer()
            assert (status, len(body)) == (200, MEGABYTE)
        assert await raw.rest() == b""


async def test_what_is_refused_waits_for_its_turn_too() -> None:
    large = Large()
    async with serving(large.handle) as server:
        raw = await connect(server)
        raw.writer.write(GET * 40 + b"NONSENSE\r\n\r\n")
        await settled(lambda: large.asked)
        for _ in range(40):
            assert (await raw.answer())[0] == 200
        assert (await raw.answer())[0] == 400
        assert await raw.rest() == b""


async def test_leave_to_send_a_body_comes_once_the_answer_before_is_read() -> None:
    large = Large()
    async with serving(large.handle) as server:
        raw = await connect(server)
        raw.writer.write(GET * 20)
        await settled(lambda: large.asked)
        raw.writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        for _ in range(20):
            assert (await raw.answer())[0] == 200
        assert (await raw.head())[0] == 100
        await raw.send(b"body")
        assert (await raw.answer())[0] == 200
        raw.close()


async def test_a_body_that_begins_behind_another_request_has_the_time_of_a_body() -> None:
    held = asyncio.Event()

    async def handle(request: Request, responder: Responder) -> None:
        await held.wait()
        await responder.send(200, json.dumps(len(request.body)).encode())

    async with serving(handle, header_timeout_s=0.1, body_timeout_s=30.0) as server:
        raw = await connect(server)
        await raw.send(GET + POST[:-2])
        held.set()
        assert (await raw.answer())[2] == b"0"
        await asyncio.sleep(0.5)
        await raw.send(POST[-2:])
        assert (await raw.answer())[2] == b"4"
        raw.close()
