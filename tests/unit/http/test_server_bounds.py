from __future__ import annotations

import asyncio
import json

import pytest

from tercet.http.server import Request, Responder

from .wires import PATIENCE_S, connect, echo, serving


async def _refusal(raw_bytes: bytes, **limits: float) -> tuple[int, str]:
    async with serving(echo, **limits) as server:
        raw = await connect(server)
        await raw.send(raw_bytes)
        status, headers, body = await raw.answer()
        assert headers["connection"] == "close"
        assert await raw.rest() == b""
        error = json.loads(body)["error"]
        assert error["message"]
        return status, error["code"]


async def test_a_body_announced_too_large_is_refused_before_it_is_read() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n"
    assert await _refusal(head, max_body_bytes=1000) == (413, "request_too_large")
    expecting = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n"
    assert await _refusal(expecting, max_body_bytes=1000) == (413, "request_too_large")


async def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large() -> None:
    body = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n"
    assert await _refusal(body + b"1f5\r\n" + b"x" * 501, max_body_bytes=1000) == (413, "request_too_large")


async def test_a_body_of_exactly_the_bound_passes() -> None:
    async with serving(echo, max_body_bytes=1000) as server:
        raw = await connect(server)
        await raw.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        assert (await raw.answer())[0] == 200
        chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000
        await raw.send(chunked + b"\r\n0\r\n\r\n")
        assert (await raw.answer())[0] == 200
        raw.close()


async def test_the_refusal_reaches_a_client_that_goes_on_sending() -> None:
    async with serving(echo, max_body_bytes=1000) as server:
        raw = await connect(server)
        await raw.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n\r\n")
        for _ in range(40):
            raw.writer.write(b"x" * 100_000)
            await asyncio.sleep(0)
        assert (await raw.answer())[0] == 413
        raw.close()


async def test_chunk_framing_without_end_is_refused() -> None:
    async with serving(echo, max_body_bytes=100, max_header_bytes=1000) as server:
        raw = await connect(server)
        await raw.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        for _ in range(20):
            await raw.send(b"e" * 500)
            await asyncio.sleep(0.002)
        assert (await raw.answer())[0] in (400, 413)
        raw.close()


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_headers_too_large_are_refused(end: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\nX-Big: " + b"a" * 5000 + end
    assert await _refusal(head, max_header_bytes=4096) == (431, "headers_too_large")


async def test_a_large_body_before_a_pipelined_head_does_not_count_as_headers() -> None:
    async with serving(echo, max_header_bytes=4096) as server:
        raw = await connect(server)
        await raw.send(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50000 + b"GET /2 HT")
        assert (await raw.answer())[0] == 200
        await raw.send(b"TP/1.1\r\nHost: h\r\n\r\n")
        assert json.loads((await raw.answer())[2])["path"] == "/2"
        raw.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n folded: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: 1\r\n\r\n",
    ],
)
async def test_bad_http_is_refused(request_bytes: bytes) -> None:
    assert await _refusal(request_bytes) == (400, "bad_http")


async def test_an_unknown_expectation_is_refused() -> None:
    request = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: cake\r\nContent-Length: 1\r\n\r\n"
    assert await _refusal(request) == (417, "expectation_failed")


async def test_slow_headers_time_out() -> None:
    async with serving(echo, header_timeout_s=0.2) as server:
        raw = await connect(server)

        async def trickle() -> None:
            for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 1000:
                await raw.send(bytes([byte]))
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        async with asyncio.timeout(8):
            status, _, body = await raw.answer()
        assert status == 408 and json.loads(body)["error"]["code"] == "request_timeout"
        trickling.cancel()
        raw.close()


async def test_a_slow_body_times_out() -> None:
    async with serving(echo, body_timeout_s=0.2) as server:
        raw = await connect(server)
        await raw.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
        status, _, body = await raw.answer()
        assert status == 408 and "body" in json.loads(body)["error"]["message"]
        raw.close()


async def test_silent_connections_are_closed() -> None:
    async with serving(echo, header_timeout_s=0.1, keep_alive_s=0.1) as server:
        silent = await connect(server)
        used = await connect(server)
        await used.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await used.answer())[0] == 200
        assert await silent.rest() == b""
        assert await used.rest() == b""


async def test_a_long_answer_outlives_every_request_deadline() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        await asyncio.sleep(0.4)
        await responder.send(200, b"late")

    async with serving(handler, header_timeout_s=0.1, keep_alive_s=0.1, body_timeout_s=0.1) as server:
        raw = await connect(server)
        await raw.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
        assert (await raw.answer())[2] == b"late"
        raw.close()


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    cancelled = asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        try:
            while True:
                responder.write(b"x" * 65536)
                await responder.drain()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(handler, write_timeout_s=0.2) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
        raw.close()


async def test_too_many_connections_are_refused() -> None:
    async with serving(echo, max_connections=2) as server:
        kept = [await connect(server) for _ in range(2)]
        for raw in kept:
            await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await raw.answer())[0] == 200
        third = await connect(server)
        status, _, body = await third.answer()
        assert status == 503 and json.loads(body)["error"]["code"] == "too_many_connections"
        for raw in kept:
            raw.close()


async def test_a_flood_of_pipelined_requests_is_read_only_as_it_is_answered() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        await asyncio.sleep(0.001)
        await responder.send(200, b"")

    async with serving(handler) as server:
        raw = await connect(server)
        body = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
        sender = asyncio.create_task(raw.send(body * 100))
        for _ in range(100):
            assert (await raw.answer())[0] == 200
            (connection,) = server.connections.members
            assert len(connection._queue) <= 12
        await sender
        raw.close()
