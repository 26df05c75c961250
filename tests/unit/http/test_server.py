from __future__ import annotations

import asyncio
import errno
import json
import logging

import pytest

from tercet.core.errors import RequestError
from tercet.http.server import Request, Responder, Server

from .wires import PATIENCE_S, RawClient, client, connect, echo, serving, settled, until, url

REQUEST = (
    b"POST /v1/x%20y?a=1&b=%2F HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;ext=1\r\n \r\n5\r\nworld\r\n0\r\n\r\n"
)


async def test_a_request_split_at_every_byte_is_understood() -> None:
    async with serving(echo) as server:
        raw = await connect(server)
        for cut in range(1, len(REQUEST)):
            await raw.send(REQUEST[:cut])
            await asyncio.sleep(0)
            await raw.send(REQUEST[cut:])
            status, headers, body = await raw.answer()
            seen = json.loads(body)
            assert status == 200 and headers["content-type"] == "application/json"
            assert seen["path"] == "/v1/x y" and seen["query"] == "a=1&b=%2F" and seen["body"] == "hello world"
            assert seen["headers"]["x-a"] == "1, 2"
        raw.close()


async def test_bytes_one_by_one() -> None:
    async with serving(echo) as server:
        raw = await connect(server)
        for byte in REQUEST:
            await raw.send(bytes([byte]))
            await asyncio.sleep(0)
        assert json.loads((await raw.answer())[2])["body"] == "hello world"
        raw.close()


async def test_pipelined_requests_are_answered_one_after_the_other_in_order() -> None:
    running = peak = 0

    async def handler(request: Request, responder: Responder) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.001 * (5 - len(request.path)))
        running -= 1
        await responder.send(200, request.path.encode() + request.body)

    async with serving(handler) as server:
        raw = await connect(server)
        n = 40
        await raw.send(
            b"".join(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n%02d" % (i, i) for i in range(n))
        )
        for i in range(n):
            assert (await raw.answer())[2] == b"/%d%02d" % (i, i)
        assert peak == 1
        raw.close()


async def test_a_bad_request_behind_a_good_one_does_not_spoil_the_good_answer() -> None:
    async with serving(echo) as server:
        raw = await connect(server)
        await raw.send(b"GET /good HTTP/1.1\r\nHost: h\r\n\r\nNONSENSE\r\n\r\n")
        assert json.loads((await raw.answer())[2])["path"] == "/good"
        status, headers, body = await raw.answer()
        assert status == 400 and headers["connection"] == "close"
        assert json.loads(body)["error"]["code"] == "bad_http"
        assert await raw.rest() == b""


async def test_streams_are_chunked_and_the_head_leaves_before_the_first_piece() -> None:
    go = asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200, headers=[("X-Route", "D0")])
        await go.wait()
        responder.write(b"data: 1\n\n")
        responder.write(b"")
        await responder.drain()
        responder.write(b"data: 2\n\n")

    async with serving(handler) as server:
        raw = await connect(server)
        for _ in range(2):
            go.clear()
            await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            status, headers = await raw.head()
            assert (status, headers["x-route"], headers["content-type"]) == (200, "D0", "text/event-stream")
            go.set()
            rest = await raw.reader.readuntil(b"0\r\n\r\n")
            assert rest == b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        raw.close()


async def test_http_1_0_gets_an_unchunked_stream_and_a_closed_connection() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        responder.write(b"one")
        responder.write(b"two")

    async with serving(handler) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.0\r\n\r\n")
        _, headers = await raw.head()
        assert "transfer-encoding" not in headers and headers["connection"] == "close"
        assert await raw.rest() == b"onetwo"


async def test_http_1_0_keep_alive_is_honoured_for_fixed_answers() -> None:
    async with serving(echo) as server:
        raw = await connect(server)
        for _ in range(2):
            await raw.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await raw.answer())[1]["connection"] == "keep-alive"
        raw.close()


async def test_connection_close_is_honoured() -> None:
    async with serving(echo) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await raw.answer())[1]["connection"] == "close"
        assert await raw.rest() == b""


@pytest.mark.parametrize("stream", [False, True])
async def test_head_gets_the_headers_alone(stream: bool) -> None:
    async def handler(request: Request, responder: Responder) -> None:
        if stream:
            responder.start(200)
            responder.write(b"body")
        else:
            await responder.send(200, b"body")

    async with serving(handler) as server:
        raw = await connect(server)
        for _ in range(2):
            await raw.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
            status, headers = await raw.head()
            assert status == 200 and headers.get("content-length") == (None if stream else "4")
        raw.close()


async def test_options_and_no_content() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        assert request.path == "*"
        await responder.send(204, b"", headers=[("Allow", "GET")], content_type="")

    async with serving(handler) as server:
        raw = await connect(server)
        for _ in range(2):
            await raw.send(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
            status, headers = await raw.head()
            assert status == 204 and headers == {"allow": "GET"}
        raw.close()


async def test_expect_continue_is_answered_before_the_body() -> None:
    async with serving(echo) as server:
        raw = await connect(server)
        for _ in range(2):
            await raw.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            assert (await raw.head())[0] == 100
            await raw.send(b"abc")
            assert json.loads((await raw.answer())[2])["body"] == "abc"
        raw.close()


async def test_an_upgrade_that_is_not_offered_is_answered_as_an_ordinary_request() -> None:
    async with serving(echo) as server:
        raw = await connect(server)
        ask = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
        await raw.send(
            b"POST /a HTTP/1.1\r\nHost: h\r\n" + ask + b"Content-Length: 2\r\n\r\nhi"
            b"GET /b HTTP/1.1\r\nHost: h\r\n" + ask + b"\r\n"
            b"GET /c HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert json.loads((await raw.answer())[2])["body"] == "hi"
        assert json.loads((await raw.answer())[2])["path"] == "/b"
        assert json.loads((await raw.answer())[2])["path"] == "/c"
        await raw.send(b"CONNECT evil:443 HTTP/1.1\r\nHost: evil\r\n\r\n")
        assert (await raw.answer())[0] == 405
        raw.close()


async def test_errors_become_openai_error_objects(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request, responder: Responder) -> None:
        if request.path == "/refused":
            raise RequestError(404, "no such model", code="model_not_found", param="model")
        if request.path == "/silent":
            return
        raise ZeroDivisionError("secret detail")

    async with serving(handler) as server:
        raw = await connect(server)
        await raw.send(b"GET /refused HTTP/1.1\r\nHost: h\r\n\r\n")
        status, _, body = await raw.answer()
        assert status == 404
        assert json.loads(body)["error"] == {
            "message": "no such model",
            "type": "not_found_error",
            "code": "model_not_found",
            "param": "model",
        }
        with caplog.at_level(logging.ERROR):
            for path in (b"/fault", b"/silent"):
                await raw.send(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path)
                status, _, body = await raw.answer()
                assert status == 500 and b"secret" not in body and json.loads(body)["error"]["type"] == "server_error"
        assert "builtins.ZeroDivisionError\n" in caplog.text and "test_server.py" in caplog.text
        assert "secret detail" not in caplog.text  # what a client sent may be quoted there
        raw.close()


async def test_a_fault_after_the_start_cuts_the_connection() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        responder.write(b"data")
        await responder.drain()
        raise RequestError(500, "too late")

    async with serving(handler) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await raw.answer()


async def test_a_header_cannot_split_the_answer() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        with pytest.raises(ValueError, match="line break"):
            responder.start(200, headers=[("X-Request-Id", "a\r\nX-Evil: 1")])
        await responder.send(200, b"fine")

    async with serving(handler) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        status, headers, body = await raw.answer()
        assert (status, body) == (200, b"fine") and "x-evil" not in headers
        raw.close()


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_client_that_leaves_cancels_its_handler(streaming: bool) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        try:
            if streaming:
                responder.start(200)
            started.set()
            while True:
                if streaming:
                    responder.write(b"data: x\n\n")
                    await responder.drain()
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(handler) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await started.wait()
        raw.close()
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
        await until(lambda: not server.tasks)


async def test_work_after_the_answer_is_not_cancelled_when_the_client_leaves() -> None:
    done = asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        await responder.send(200, b"ok")
        await asyncio.sleep(0.05)
        done.set()

    async with serving(handler) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await raw.answer()
        raw.close()
        await asyncio.wait_for(done.wait(), PATIENCE_S)


async def test_a_slow_reader_holds_the_writer_back() -> None:
    written = 0

    async def handler(request: Request, responder: Responder) -> None:
        nonlocal written
        responder.start(200)
        for _ in range(1000):
            responder.write(b"x" * 65536)
            written += 65536
            await responder.drain()

    async with serving(handler) as server:
        raw = RawClient(*await asyncio.open_connection("127.0.0.1", server.port, limit=1024))
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        await until(lambda: written > 0)
        assert await settled(lambda: written) < 30_000_000
        total = 0
        while piece := await asyncio.wait_for(raw.reader.read(1 << 20), PATIENCE_S):
            total += len(piece)
        assert total > 65536 * 1000 and written == 65536 * 1000


async def test_close_waits_for_answers_under_way_and_refuses_new_connections() -> None:
    async def handler(request: Request, responder: Responder) -> None:
        responder.start(200)
        for _ in range(10):
            responder.write(b"x")
            await asyncio.sleep(0.01)

    async with serving(handler) as server:
        idle = await connect(server)
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await raw.head()
        closing = asyncio.create_task(server.close(100))
        assert await idle.rest() == b""
        with pytest.raises(OSError):
            await connect(server)
        assert (await raw.reader.readuntil(b"0\r\n\r\n")).count(b"x") == 10
        assert await raw.rest() == b""
        await asyncio.wait_for(closing, PATIENCE_S)


async def test_close_cuts_what_does_not_end_in_time() -> None:
    cleaned = asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    async with serving(handler) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: bool(server.tasks))
        await asyncio.wait_for(server.close(0.05), PATIENCE_S)
        assert cleaned.is_set() and not server.tasks


async def test_a_busy_port_raises_address_in_use() -> None:
    async with serving(echo) as server:
        second = Server(echo, port=server.port)
        with pytest.raises(OSError) as caught:
            await second.start()
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_large_answer_arrives_whole() -> None:
    body = bytes(range(256)) * 16384

    async def handler(request: Request, responder: Responder) -> None:
        assert request.body == body
        await responder.send(200, body)

    async with serving(handler) as server, client() as http:
        for _ in range(3):
            response = await http.request("POST", url(server), body=body)
            assert await response.read() == body


async def test_a_handler_can_tell_that_its_client_left() -> None:
    seen: list[bool] = []
    ended = asyncio.Event()

    async def handler(request: Request, responder: Responder) -> None:
        seen.append(responder.gone)
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(responder.gone)
            ended.set()

    async with serving(handler) as server, client() as http:
        task = asyncio.create_task(http.request("GET", url(server, "/")))
        await until(lambda: bool(seen))
        task.cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
        assert seen == [False, True]


async def test_an_answer_to_a_client_that_left_goes_nowhere_and_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[RuntimeError | None] = []

    async def handler(request: Request, responder: Responder) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # the transport is closed for good by now
            try:
                responder.send_now(200, b"too late")
                ended.append(None)
            except RuntimeError as error:
                ended.append(error)
            raise

    async with serving(handler) as server:
        raw = await connect(server)
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: bool(server.tasks))
        raw.close()
        await until(lambda: bool(ended))
        assert ended == [None] and not caplog.records
