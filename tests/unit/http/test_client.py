from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import struct
import tracemalloc
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from itertools import pairwise
from time import perf_counter, perf_counter_ns

import pytest

from tercet.http.client import Client, ClientError, Response
from tercet.http.server import Request, Responder

from .wires import PATIENCE_S, client, echo, raw_serving, serving, settled, until, url

ANSWER = (
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;e=1\r\n \r\n5\r\nworld\r\n0\r\n\r\n"
)


async def _request_read(reader: Reader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.split(b":")[1]))
    return head


def _reset(writer: Writer) -> None:
    """Close with RST, as a killed process does."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_an_answer_split_at_every_byte_is_understood() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        for cut in range(1, len(ANSWER)):
            await _request_read(reader)
            writer.write(ANSWER[:cut])
            await writer.drain()
            await asyncio.sleep(0.0005)
            writer.write(ANSWER[cut:])
            await writer.drain()

    async with raw_serving(talk) as base, client() as http:
        for _ in range(1, len(ANSWER)):
            response = await http.request("GET", base)
            assert await response.read() == b"hello world"
            assert response.status == 200 and response.headers["x-a"] == "1, 2" and response.chunked


async def test_the_request_is_sent_as_asked() -> None:
    async with serving(echo) as server, client() as http:
        response = await http.request(
            "POST", url(server, "/a%20b?c=d"), headers=[("X-Request-Id", "r1")], body="{é}".encode()
        )
        seen = json.loads(await response.read())
        assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/a b", "c=d")
        assert seen["body"].encode("latin-1").decode() == "{é}"
        assert seen["headers"] == {
            "host": f"127.0.0.1:{server.port}",
            "x-request-id": "r1",
            "content-length": "4",
        }
        with pytest.raises(ValueError, match="line break"):
            await http.request("GET", url(server), headers=[("X", "a\r\nb: c")])
        with pytest.raises(ValueError, match="not an http URL"):
            await http.request("GET", "ftp://x/")


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
async def test_a_body_in_pieces_is_one_body(size: int) -> None:
    seen: list[bytes] = []

    async def handler(request: Request, responder: Responder) -> None:
        seen.append(request.body)
        await responder.send(200, b"{}")

    long, made = bytes(range(256)) * (size // 256 + 1), 0

    def pieces() -> list[bytes | memoryview]:
        nonlocal made
        made += 1
        return [b"{", memoryview(long)[:size], b"", memoryview(b""), b"}"]

    async with serving(handler) as server, client() as http:
        for _ in range(2):
            answer = await http.request("POST", url(server), body=pieces)
            assert (answer.status, await answer.read()) == (200, b"{}")
    assert seen == [b"{" + long[:size] + b"}"] * 2 and made == 2


async def test_connections_are_reused() -> None:
    async with serving(echo) as server, client() as http:
        for _ in range(5):
            await (await http.request("GET", url(server))).read()
        assert len(server.connections.members) == 1
        untaken = [await http.request("GET", url(server)) for _ in range(2)]
        assert len(server.connections.members) == 1, "an answer that is here needs its connection no more"
        both = await asyncio.gather(*(http.request("GET", url(server)) for _ in range(2)))
        for response in (*untaken, *both):
            assert b'"method": "GET"' in await response.read()
            with pytest.raises(RuntimeError, match="already taken"):
                await response.read()
        assert len(server.connections.members) == 2


async def test_idle_connections_are_closed_after_the_keep_alive_time() -> None:
    async with serving(echo) as server, client(keep_alive_s=0.1, deadline_resolution_s=0.02) as http:
        await (await http.request("GET", url(server))).read()
        assert len(server.connections.members) == 1
        await until(lambda: not server.connections.members)


async def test_a_connection_that_the_server_closes_is_not_reused() -> None:
    connections = 0

    async def talk(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        await _request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    async with raw_serving(talk) as base, client() as http:
        for _ in range(3):
            assert await (await http.request("GET", base)).read() == b"ok"
        assert connections == 3


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_stale_connection_is_replaced_once(how: str) -> None:
    connections = 0

    async def talk(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        await _request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await _request_read(reader)  # a second request on this connection never gets an answer
        if how == "reset":
            _reset(writer)

    async with raw_serving(talk) as base, client() as http:
        for n in range(1, 4):
            response = await http.request("POST", base, body=b"{}")
            assert await response.read() == b"ok" and connections == n


async def test_a_fresh_connection_that_closes_is_no_stale_one() -> None:
    connections = 0

    async def talk(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        await _request_read(reader)

    async with raw_serving(talk) as base, client() as http:
        with pytest.raises(ClientError) as caught:
            await http.request("POST", base, body=b"{}")
        assert caught.value.reason == "closed" and caught.value.before_first_byte and connections == 1


async def test_no_server_and_no_answer_are_told_apart() -> None:
    async def mute(reader: Reader, writer: Writer) -> None:
        await reader.read()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with client() as http:
            with pytest.raises(ClientError, match="cannot connect to 127") as caught:
                await http.request("GET", f"http://127.0.0.1:{taken.getsockname()[1]}")
            assert caught.value.reason == "connect" and caught.value.before_first_byte
    async with raw_serving(mute) as base, client() as http:
        started = perf_counter()
        with pytest.raises(ClientError) as caught:
            await http.request("GET", base, first_byte_timeout_s=0.2)
        assert caught.value.reason == "first_byte_timeout" and caught.value.before_first_byte
        assert 0.15 < perf_counter() - started < 20, "far from the 60 s that are waited else"


async def test_connecting_has_a_deadline() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        async with client(connect_timeout_s=0.2) as http:
            with pytest.raises(ClientError) as caught:
                await http.request("GET", f"http://127.0.0.1:{address[1]}", first_byte_timeout_s=0.5)
            assert caught.value.reason in ("connect_timeout", "first_byte_timeout")
        for filler in fillers:
            filler.close()


async def test_headers_alone_do_not_end_the_wait_for_the_first_byte() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await _request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await reader.read()

    async with raw_serving(talk) as base, client(deadline_resolution_s=0.02) as http:
        response = await http.request("GET", base, first_byte_timeout_s=60, idle_timeout_s=0.15)
        got = []
        with pytest.raises(ClientError) as caught:
            async for piece, _ in response.chunks():
                got.append(piece)
        assert got == [b"x"]
        assert caught.value.reason == "idle_timeout" and not caught.value.before_first_byte


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_server_that_dies_half_way_is_an_error_after_what_had_come(how: str) -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await _request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        if how == "reset":
            _reset(writer)

    async with raw_serving(talk) as base, client() as http:
        response = await http.request("GET", base)
        got = []
        with pytest.raises(ClientError) as caught:
            async for piece, _ in response.chunks():
                got.append(piece)
        assert got == [b"one"] and caught.value.reason == "closed" and not caught.value.before_first_byte


async def test_a_body_without_length_ends_with_the_connection() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await _request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\none")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"two")

    async with raw_serving(talk) as base, client() as http:
        assert await (await http.request("GET", base)).read() == b"onetwo"
        late = await http.request("GET", base)
        await asyncio.sleep(0.1)  # the connection is gone before the body is taken
        assert await late.read() == b"onetwo"


async def test_a_whole_answer_before_the_close_is_whole() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await _request_read(reader)
        writer.write(ANSWER)

    async with raw_serving(talk) as base, client() as http:
        response = await http.request("GET", base)
        await asyncio.sleep(0.05)
        assert await response.read() == b"hello world"


@pytest.mark.parametrize(
    "answer",
    [
        b"NONSENSE\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nabc",
    ],
    ids=["nonsense", "two lengths", "bad chunk", "endless head", "two answers", "bytes after the end", "upgrade"],
)
async def test_a_broken_answer_is_a_protocol_error(answer: bytes) -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await _request_read(reader)
        writer.write(answer)
        await reader.read()

    async with raw_serving(talk) as base, client() as http:
        with pytest.raises(ClientError) as caught:
            await (await http.request("GET", base)).read()
        assert caught.value.reason == "protocol"


async def test_interim_answers_are_skipped() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await _request_read(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ANSWER)
        await reader.read()

    async with raw_serving(talk) as base, client() as http:
        response = await http.request("GET", base)
        assert response.status == 200 and "link" not in response.headers
        assert await response.read() == b"hello world"


async def test_a_trailer_never_becomes_the_next_answers_header() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await _request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Trailer: 1\r\n\r\n")
        await _request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny")
        await reader.read()

    async with raw_serving(talk) as base, client() as http:
        for body in (b"x", b"y"):
            response = await http.request("GET", base)
            assert await response.read() == body and "x-trailer" not in response.headers


async def test_head_has_no_body() -> None:
    async with serving(echo) as server, client() as http:
        for _ in range(2):
            response = await http.request("HEAD", url(server))
            assert response.status == 200 and int(response.headers["content-length"]) > 0
            assert await response.read() == b""


async def test_cancelling_or_closing_closes_the_connection() -> None:
    cancelled = 0

    async def handler(request: Request, responder: Responder) -> None:
        nonlocal cancelled
        try:
            if request.path != "/silent":
                responder.start(200)
                responder.write(b"x")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async with serving(handler) as server, client() as http:
        waiting = asyncio.create_task(http.request("GET", url(server, "/silent")))
        await until(lambda: bool(server.tasks))
        waiting.cancel()
        await until(lambda: cancelled == 1)

        async def consume() -> None:
            async for _ in (await http.request("GET", url(server))).chunks():
                pass

        reading = asyncio.create_task(consume())
        await until(lambda: bool(server.tasks))
        await asyncio.sleep(0.02)
        reading.cancel()
        await until(lambda: cancelled == 2)
        (await http.request("GET", url(server))).close()
        await until(lambda: cancelled == 3)
        await until(lambda: not server.connections.members)


async def test_closing_the_client_ends_what_is_under_way() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        responder.write(b"x")
        await asyncio.sleep(60)

    async with serving(handler) as server:
        http = Client()
        response = await http.request("GET", url(server))
        await http.close()
        with pytest.raises(ClientError):
            await response.read()
        with pytest.raises(ClientError, match="closed"):
            await http.request("GET", url(server))
        await until(lambda: not server.connections.members)


async def test_a_reader_that_lags_holds_the_server_back_and_loses_nothing() -> None:
    sent = 0

    async def handler(request: Request, responder: Responder) -> None:
        nonlocal sent
        responder.start(200)
        for i in range(400):
            responder.write(i.to_bytes(2, "big") * 32768)
            sent += 65536
            await responder.drain()

    async with serving(handler) as server, client(deadline_resolution_s=0.02) as http:
        response = await http.request("GET", url(server), idle_timeout_s=0.1)
        await asyncio.sleep(0.4)  # longer than the idle timeout: a reader's own pause is no silence of the server's
        assert sent < 20_000_000
        body = await response.read()
        assert body == b"".join(i.to_bytes(2, "big") * 32768 for i in range(400))


class _PausesOnce:
    """A sink that asks for a pause at the first it gets, and goes on taking: as a client's connection that is full."""

    last_ns = 0

    def __init__(self, response: Response) -> None:
        self._response = response
        self.size = 0

    def read(self, raw: bytes, pieces: list[bytes], now_ns: int) -> None:
        if not self.size:
            self._response.pause()
        self.size += len(raw)

    def ended(self, error: ClientError | None) -> None:
        pass


async def test_a_taker_that_is_full_of_what_was_held_is_not_given_more() -> None:
    sent = 0

    async def handler(request: Request, responder: Responder) -> None:
        nonlocal sent
        responder.start(200)
        for _ in range(400):
            responder.write(b"x" * 65536)
            sent += 65536
            await responder.drain()

    async with serving(handler) as server, client() as http:
        response = await http.request("GET", url(server))
        await settled(lambda: sent)  # more than is held comes meanwhile
        sink = _PausesOnce(response)
        response._flow_to(sink)
        held = sink.size
        await settled(lambda: sink.size)
        assert 0 < held == sink.size
        response.close()


async def test_bounds_of_the_client() -> None:
    async with serving(echo) as server, client(max_connections_per_host=2) as http:
        with pytest.raises(ClientError) as caught:
            await asyncio.gather(*(http.request("GET", url(server)) for _ in range(3)))
        assert caught.value.reason == "too_many_connections"
    async with serving(echo) as server, client() as http:
        with pytest.raises(ClientError) as caught:
            await (await http.request("POST", url(server), body=b"x" * 1000)).read(max_bytes=500)
        assert caught.value.reason == "too_large"


async def test_that_no_file_is_left_is_not_the_servers_fault() -> None:
    async with serving(echo) as server, client() as http:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            with pytest.raises(ClientError, match="open files") as caught:
                await http.request("GET", url(server))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.reason == "too_many_connections"
        assert await (await http.request("GET", url(server))).read()


async def test_long_urls_are_not_kept() -> None:
    async with serving(echo) as server, client() as http:
        await (await http.request("GET", url(server))).read()
        tracemalloc.start()
        try:
            used = []
            for begin in (0, 150):  # more than urlsplit remembers
                for i in range(begin, begin + 150):
                    await (await http.request("GET", url(server, f"/{i}?" + "x" * 60_000))).read()
                used.append(tracemalloc.get_traced_memory()[0])
            assert used[1] - used[0] < 2_000_000, "clients whose requests are passed on choose them"
        finally:
            tracemalloc.stop()


async def test_a_name_that_dns_cant_hold_can_not_be_connected_to() -> None:
    async with client() as http:
        for name in ("x" * 64, "a..b"):
            with pytest.raises(ClientError, match="cannot connect") as failure:
                await http.request("GET", f"http://{name}:1/")
            assert failure.value.reason == "connect"


async def test_time_stamps_are_the_sockets_not_the_readers() -> None:
    wrote: list[int] = []

    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        for _ in range(3):
            wrote.append(perf_counter_ns())
            responder.write(b"x")
            await responder.drain()
            await asyncio.sleep(0.05)
        wrote.append(perf_counter_ns())

    async with serving(handler) as server, client() as http:
        before = perf_counter_ns()
        response = await http.request("GET", url(server))
        assert before < response.started_ns < response.head_ns
        await until(lambda: len(wrote) == 2)  # whoever takes a piece takes it late
        times = []
        async for _, now_ns in response.chunks():
            times.append(now_ns)
            await until(lambda: len(wrote) == min(len(times) + 2, 4))
        assert response.head_ns <= times[0]
        for now_ns, (earlier, later) in zip(times, pairwise(wrote), strict=True):
            assert earlier < now_ns < later


async def test_the_body_is_taken_once() -> None:
    async with serving(echo) as server, client() as http:
        response: Response = await http.request("GET", url(server))
        await response.read()
        with pytest.raises(RuntimeError, match="already taken"):
            await response.read()


async def _half_closed(http: Client, target: str) -> Response:
    begun: list[Response] = []
    task = asyncio.create_task(http.request("GET", target, on_begin=begun.append))
    while not begun:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    begun[0].half_close()
    return await asyncio.wait_for(task, PATIENCE_S)


async def test_a_half_closed_request_still_takes_an_answer_that_is_on_its_way() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await _request_read(reader)
        assert await reader.read() == b"", "the client closes its side"
        writer.write(ANSWER)
        await writer.drain()

    async with raw_serving(talk) as base, client() as http:
        response = await _half_closed(http, base)
        assert await response.read() == b"hello world"
        # The connection can't be used again; another one is made.
        assert (await _half_closed(http, base)).status == 200


async def test_a_half_closed_request_cancels_the_servers_work_and_is_not_sent_again() -> None:
    came, cancelled = 0, asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        nonlocal came
        came += 1
        if came == 1:
            await responder.send(200, b"")
            return
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(handler) as server, client() as http:
        await (await http.request("GET", url(server, "/"))).read()  # the connection is a pooled one then
        with pytest.raises(ClientError):
            await _half_closed(http, url(server, "/"))
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
        assert came == 2


async def test_disconnect_fails_what_is_under_way_at_that_address_only() -> None:
    came, gate = 0, asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        nonlocal came
        came += 1
        if came > 1:
            await gate.wait()
        await responder.send(200, b"done")

    async with serving(handler) as one, serving(handler) as other, client() as http:
        await (await http.request("GET", url(one, "/"))).read()  # one of them goes over a pooled connection
        tasks = [asyncio.create_task(http.request("GET", url(server, "/"))) for server in (one, one, other)]
        await until(lambda: came == 4)
        http.disconnect(url(one, "/whatever"))
        for task in tasks[:2]:
            with pytest.raises(ClientError) as caught:
                await asyncio.wait_for(task, PATIENCE_S)
            assert caught.value.before_first_byte
        gate.set()
        assert await (await tasks[2]).read() == b"done"
        assert await (await http.request("GET", url(one, "/"))).read() == b"done"
