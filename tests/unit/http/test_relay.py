from __future__ import annotations

import asyncio
import gc
import random
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter_ns
from weakref import ref

import pytest

from tercet.core.errors import RequestError
from tercet.http.client import Client, ClientError, OnFirst, Relayed
from tercet.http.server import Handler, Request, Responder, Server
from tercet.http.wire import end_to_end

from .wires import PATIENCE_S, client, connect, raw_serving, serving, settled, until, url


class Doubler:
    """Says every byte twice, one piece late."""

    def __init__(self) -> None:
        self.kept = b""

    def feed(self, piece: bytes) -> bytes:
        ready, self.kept = self.kept, bytes(byte for pair in zip(piece, piece, strict=True) for byte in pair)
        return ready

    def end(self) -> bytes:
        return self.feed(b"")


class Proxy:
    """A relay in front of one server; remembers what it saw."""

    def __init__(self, http: Client, base: str, on_first: OnFirst | None, tail_bytes: int) -> None:
        self.http = http
        self.base = base
        self.on_first = on_first
        self.tail_bytes = tail_bytes
        self.rewrites = False
        self.relayed: list[Relayed] = []
        self.errors: list[ClientError] = []

    async def __call__(self, request: Request, responder: Responder) -> None:
        response = await self.http.request(request.method, self.base + request.target, body=request.body)
        try:
            self.relayed.append(
                await response.relay(
                    responder,
                    headers=[pair for pair in end_to_end(response.headers) if pair[0] != "content-type"],
                    on_first=self.on_first,
                    tail_bytes=self.tail_bytes,
                    rewriter=Doubler() if self.rewrites else None,
                )
            )
        except ClientError as error:
            self.errors.append(error)
            if not responder.started:
                raise RequestError(502, str(error)) from error
            responder.write(b"event: broken\n\n")


@asynccontextmanager
async def proxied(
    base: str, on_first: OnFirst | None = None, tail_bytes: int = 64
) -> AsyncIterator[tuple[Server, Proxy]]:
    async with client() as http:
        proxy = Proxy(http, base, on_first, tail_bytes)
        async with serving(proxy) as server:
            yield server, proxy


@asynccontextmanager
async def proxied_handler(handler: Handler, on_first: OnFirst | None = None) -> AsyncIterator[tuple[Server, Proxy]]:
    async with serving(handler) as backend, proxied(url(backend)[:-1], on_first) as both:
        yield both


TEXT = 'data: {"text": "héllo 世界 🙂"}\n\n'.encode()


@pytest.mark.parametrize("take", ["relay", "read", "chunks"])
async def test_an_answer_that_was_taken_leaves_nothing_to_the_garbage_collector(take: str) -> None:
    taken: list[ref[object]] = []

    async def stream(request: Request, responder: Responder) -> None:
        responder.start(200)
        for _ in range(3):
            responder.write(TEXT)
            await asyncio.sleep(0.002)

    async def proxy(request: Request, responder: Responder) -> None:
        response = await http.request("GET", url(backend))
        taken.append(ref(response))
        if take == "relay":
            await response.relay(responder)
        elif take == "read":
            await responder.send(200, await response.read())
        else:
            await responder.send(200, b"".join([piece async for piece, _ in response.chunks()]))

    gc.disable()
    try:
        async with serving(stream) as backend, client() as http, serving(proxy) as server:
            answer = await http.request("GET", url(server))
            assert await answer.read() == TEXT * 3
            await until(lambda: taken[0]() is None)
    finally:
        gc.enable()


async def test_a_stream_split_anywhere_arrives_byte_for_byte() -> None:
    framed = b"%x\r\n%b\r\n" % (len(TEXT), TEXT) * 3 + b"0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + framed

    async def talk(reader: Reader, writer: Writer) -> None:
        for cut in range(1, len(answer), 2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer[:cut])
            await writer.drain()
            await asyncio.sleep(0.0005)
            writer.write(answer[cut:])
            await writer.drain()

    async with raw_serving(talk) as base, proxied(base) as (server, proxy):
        raw = await connect(server)
        for _ in range(1, len(answer), 2):
            await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            status, headers = await raw.head()
            assert status == 200 and headers["content-type"] == "text/event-stream"
            assert await raw.reader.readexactly(len(framed)) == framed
        assert {(len(TEXT) * 3, TEXT[-64:])} == {(seen.body_bytes, seen.tail[-len(TEXT) :]) for seen in proxy.relayed}
        raw.close()


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 6", b"Connection: close"])
async def test_a_body_is_rewritten_whatever_its_framing(framing: bytes) -> None:
    chunked = b"3\r\nabc\r\n" + b"3\r\ndef\r\n" + b"0\r\n\r\n"

    async def talk(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = chunked if b"chunked" in framing else b"abcdef"
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body[:8])
        await writer.drain()
        await asyncio.sleep(0.005)
        writer.write(body[8:])
        writer.close()

    async with raw_serving(talk) as base, proxied(base) as (server, proxy), client() as http:
        proxy.rewrites = True
        response = await http.request("GET", url(server))
        assert response.status == 200 and await response.read() == b"aabbccddeeff"
        assert (proxy.relayed[0].body_bytes, proxy.relayed[0].tail) == (12, b"aabbccddeeff")


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "length"])
async def test_four_megabytes_arrive_identical(chunked: bool) -> None:
    body = random.Random(0).randbytes(4 * 1024 * 1024)

    async def handler(request: Request, responder: Responder) -> None:
        assert request.body == body
        if not chunked:
            await responder.send(200, body)
            return
        responder.start(200)
        for start in range(0, len(body), 100_001):
            responder.write(body[start : start + 100_001])
            await responder.drain()

    async with proxied_handler(handler) as (server, proxy), client() as http:
        for _ in range(2):
            response = await http.request("POST", url(server), body=body)
            assert response.chunked == chunked
            assert await response.read() == body
        assert all(seen.body_bytes == len(body) and seen.tail == body[-64:] for seen in proxy.relayed)
        assert len(server.connections.members) == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("kind", ["chunked", "length", "until close", "empty", "204"])
async def test_every_framing_is_translated(kind: str, version: str) -> None:
    head = b"HTTP/1.1 204 No Content\r\n" if kind == "204" else b"HTTP/1.1 200 OK\r\n"
    rest = {
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        "length": b"Content-Length: 6\r\n\r\nhello!",
        "until close": b"\r\nhello!",
        "empty": b"Content-Length: 0\r\n\r\n",
        "204": b"\r\n",
    }[kind]

    async def talk(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + rest)

    async with raw_serving(talk) as base, proxied(base) as (server, proxy):
        raw = await connect(server)
        await raw.send(b"GET / HTTP/%b\r\nHost: h\r\nConnection: close\r\n\r\n" % version.encode())
        status, headers, body = await raw.answer()
        assert status == (204 if kind == "204" else 200)
        assert body == (b"" if kind in ("empty", "204") else b"hello!")
        assert "transfer-encoding" not in headers or version == "1.1"
        assert proxy.relayed[0].body_bytes == len(body)


async def test_head_is_relayed_without_a_body() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        await responder.send(200, b"body")

    async with proxied_handler(handler) as (server, _):
        raw = await connect(server)
        for _ in range(2):
            await raw.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
            status, headers = await raw.head()
            assert status == 200 and headers["content-length"] == "4"
        raw.close()


async def test_on_first_comes_before_anything_is_written_and_adds_headers() -> None:
    release = asyncio.Event()
    seen: list[int] = []

    def on_first(now_ns: int, first: bytes) -> list[tuple[str, str]]:
        assert first == b"data: x\n\n"
        seen.append(now_ns)
        return [("X-Tercet-Route", "P0>D1")]

    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200, headers=[("X-Worker", "d1"), ("Connection", "X-Hop"), ("X-Hop", "1")])
        await responder.drain()
        await release.wait()
        for _ in range(3):
            responder.write(b"data: x\n\n")
            await asyncio.sleep(0.01)

    async with proxied_handler(handler, on_first) as (server, proxy):
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.reader.read(1), 0.1)
        before = perf_counter_ns()
        release.set()
        _, headers, body = await raw.answer()
        assert headers["x-tercet-route"] == "P0>D1" and headers["x-worker"] == "d1" and "x-hop" not in headers
        assert body == b"data: x\n\n" * 3
        assert len(seen) == 1 and seen[0] == proxy.relayed[0].first_ns > before
        assert proxy.relayed[0].last_ns - seen[0] >= 15_000_000
        raw.close()


@pytest.mark.parametrize("shift", range(12))
async def test_chunks_that_cease_to_be_whole_and_what_looks_like_one_amid_another(shift: int) -> None:
    """Each piece is a read of its own. `inner` is a whole chunk by itself, yet part of a chunk's content here."""
    whole, inner = b"5\r\nhello\r\n", b"3\r\nabc\r\n"
    outer = b"%x\r\n%b\r\n" % (3 * len(inner), inner * 3)
    cut = len(b"1b\r\n") if shift == 0 else len(outer) * shift // 12
    pieces = [whole, whole, outer[:cut]]
    pieces += [inner, inner, inner, b"\r\n"] if shift == 0 else [outer[cut:]]
    pieces += [whole, inner, whole[:4], whole[4:], b"0\r\n", b"\r\n"]

    async def talk(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await asyncio.sleep(0.003)
            writer.write(piece)
            await writer.drain()

    async with raw_serving(talk) as base, proxied(base) as (server, proxy):
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await raw.head()
        assert await raw.reader.readexactly(sum(map(len, pieces))) == b"".join(pieces)
        await until(lambda: bool(proxy.relayed))
        content = b"hello" * 2 + inner * 3 + b"helloabchello"
        assert (proxy.relayed[0].body_bytes, proxy.relayed[0].tail) == (len(content), content[-64:])
        raw.close()


async def test_a_stream_of_whole_chunks_that_stands_still_is_given_up() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(12):
            writer.write(b"5\r\nhello\r\n")
            await asyncio.sleep(0.05)
        await asyncio.sleep(60)

    async with raw_serving(talk) as base, client(deadline_resolution_s=0.02) as http:

        async def handler(request: Request, responder: Responder) -> None:
            response = await http.request("GET", base, idle_timeout_s=0.3)
            with pytest.raises(ClientError, match="stood still") as caught:
                await response.relay(responder)
            assert caught.value.reason == "idle_timeout" and not caught.value.before_first_byte
            responder.write(b"broken")

        async with serving(handler) as server:
            answer = await http.request("GET", url(server))
            assert await answer.read() == b"hello" * 12 + b"broken"


@pytest.mark.parametrize("tail_bytes", [0, 1, 3, 5, 9])
async def test_a_whole_answer_is_passed_on_with_its_type_and_more_headers(tail_bytes: int) -> None:
    async def handler(request: Request, responder: Responder) -> None:
        await responder.send(418, b"hello", headers=[("X-Worker", "d1")], content_type="text/plain")

    def on_first(now_ns: int, first: bytes) -> list[tuple[str, str]]:
        assert first == b"hello"
        return [("X-Tercet-Route", "P0>D1")]

    async with serving(handler) as backend, proxied(url(backend)[:-1], on_first, tail_bytes) as (server, proxy):
        raw = await connect(server)
        for _ in range(2):
            await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert await raw.answer() == (
                418,
                {"x-worker": "d1", "x-tercet-route": "P0>D1", "content-type": "text/plain", "content-length": "5"},
                b"hello",
            )
        assert {relayed.tail for relayed in proxy.relayed} == {b"hello"[-tail_bytes:] if tail_bytes else b""}
        raw.close()


async def test_a_whole_answer_can_be_refused_too() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        await responder.send(200, b"hello")

    def refuse(now_ns: int, first: bytes) -> None:
        raise RequestError(409, "not this one")

    async with proxied_handler(handler, refuse) as (server, _), client() as http:
        assert (await http.request("GET", url(server))).status == 409


async def test_on_first_may_refuse() -> None:
    cancelled = asyncio.Event()

    def refuse(now_ns: int, first: bytes) -> None:
        raise RequestError(409, "not this one")

    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        responder.write(b"x")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with proxied_handler(handler, refuse) as (server, _):
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await raw.answer())[0] == 409
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
        raw.close()


async def test_a_handler_may_start_the_answer_itself() -> None:
    async def backend(request: Request, responder: Responder) -> None:
        await responder.send(200, b"hello")

    async with serving(backend) as server, client() as http:

        async def handler(request: Request, responder: Responder) -> None:
            response = await http.request("GET", url(server))
            responder.start(200, content_type="text/plain")
            responder.write(b"[")
            await response.relay(responder)

        async with serving(handler) as front:
            answer = await http.request("GET", url(front))
            assert answer.headers["content-type"] == "text/plain" and await answer.read() == b"[hello"


@pytest.mark.parametrize("half", [False, True], ids=["between chunks", "within a chunk"])
async def test_a_server_that_dies_leaves_an_answer_that_can_be_ended_only_between_chunks(half: bool) -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        if half:
            writer.write(b"9\r\ndat")

    async with raw_serving(talk) as base, proxied(base) as (server, proxy):
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        if half:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await raw.answer()
        else:
            assert (await raw.answer())[2] == b"data: 1\n\nevent: broken\n\n"
        await until(lambda: bool(proxy.errors))
        assert not proxy.errors[0].before_first_byte
        raw.close()


async def test_a_server_that_dies_before_its_first_byte_leaves_the_answer_unstarted() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)

    async with raw_serving(talk) as base, proxied(base) as (server, proxy):
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await raw.answer())[0] == 502 and proxy.errors[0].before_first_byte
        raw.close()


async def test_a_client_that_leaves_closes_the_upstream_connection() -> None:
    cancelled = asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        try:
            while True:
                responder.write(b"data: x\n\n")
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with proxied_handler(handler) as (server, _):
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await raw.head()
        raw.close()
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
        await until(lambda: not server.tasks)


async def test_a_slow_client_holds_the_upstream_back() -> None:
    sent = 0
    total = 40_000_000

    async def handler(request: Request, responder: Responder) -> None:
        nonlocal sent
        responder.start(200)
        while sent < total:
            responder.write(b"x" * 100_000)
            sent += 100_000
            await responder.drain()

    async with proxied_handler(handler) as (server, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        await until(lambda: sent > 0)
        assert await settled(lambda: sent) < total
        size = 0
        while piece := await asyncio.wait_for(reader.read(1 << 20), PATIENCE_S):
            size += len(piece)
        assert sent == total and size > total
        await until(lambda: bool(proxy.relayed))
        assert proxy.relayed[0].body_bytes == total
        writer.close()


async def test_two_hundred_streams_at_once_keep_apart() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        for i in range(20):
            responder.write(f"data: {request.path} {i} é\n\n".encode())
            await asyncio.sleep(0.005)

    async def one(http: Client, server: Server, n: int) -> None:
        body = await (await http.request("GET", url(server, f"/{n}"))).read()
        assert body == b"".join(f"data: /{n} {i} é\n\n".encode() for i in range(20))

    async with proxied_handler(handler) as (server, _), client() as http:
        await asyncio.gather(*(one(http, server, n) for n in range(200)))
        assert len(server.connections.members) <= 200
