"""Which headers of a worker's answer reach the client, of streams, whole answers, and what is passed through."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tercet.http.server import Request, Responder

from .harness import Got, Setup, routing

INSIDE = {
    "Set-Cookie": "session=worker",
    "Server": "uvicorn",
    "Via": "1.1 inner",
    "X-Powered-By": "something",
    "Location": "http://10.0.0.7:8000/v1",
    "Alt-Svc": 'h3=":443"',
    "Access-Control-Allow-Origin": "*",
    "WWW-Authenticate": "Bearer",
    "X-Request-Id": "of-the-worker",
    "X-Tercet-Route": "of the worker",
    "X-Tercet-Ticket": "inside",
    "X-Tercet-Timeline": "inside",
    "Keep-Alive": "timeout=5",
    "Proxy-Authenticate": "Basic",
    "Proxy-Connection": "close",
    "TE": "trailers",
    "Trailer": "X-Late",
    "Upgrade": "h2c",
    "Connection": "vary, x-tercet-recomputed",
    "Vary": "named by Connection",
    "X-Tercet-Recomputed": "named by Connection",
}
OF_A_BODY = {"Content-Language": "en", "Content-Disposition": "attachment", "Cache-Control": "no-store"}
OWN = {"x-request-id", "x-tercet-route", "content-type"}
FRAMING = {"content-length", "transfer-encoding"}
ABOUT = {"x-tercet-prompt-tokens", "x-tercet-cached-tokens", "x-tercet-external-tokens"}

WAYS: dict[str, tuple[Callable[[Setup], Awaitable[Got]], set[str]]] = {
    "stream": (lambda setup: setup.complete(stream=True), ABOUT | {"server-timing"}),
    "whole": (lambda setup: setup.complete(), ABOUT | {"server-timing"}),
    "chat": (lambda setup: setup.chat("a b"), ABOUT | {"server-timing"}),
    "passed through": (lambda setup: setup.post("/v1/echo", {"a": 1}), {"etag", *map(str.lower, OF_A_BODY)}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("letters", ["A", "PD"])
async def test_what_a_worker_says_of_itself_stays_inside(way: str, letters: str) -> None:
    ask, expected = WAYS[way]
    async with routing(letters, "pd" if letters == "PD" else None) as setup:
        for worker in setup.workers:
            worker.also_says = [*INSIDE.items(), *OF_A_BODY.items()]
        got = await ask(setup)
        assert got.status == 200 and got.body
        assert set(got.headers) - FRAMING == OWN | expected
        assert len(FRAMING & set(got.headers)) == 1
        said = " ".join(got.headers.values())
        assert not any(
            value in said for name, value in INSIDE.items() if name not in ("TE", "Access-Control-Allow-Origin")
        )


async def test_a_body_that_is_passed_through_keeps_what_belongs_to_it() -> None:
    async with routing("A") as setup:
        setup.workers[0].also_says = list(OF_A_BODY.items())
        got = await setup.post("/v1/echo", {"a": 1})
        assert {name: got.headers[name.lower()] for name in OF_A_BODY} == OF_A_BODY


BROKEN = {
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "oversize": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + b"a" * 70_000 + b"\r\n\r\nab",
    "a split header": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\rSet-Cookie: b\r\n\r\nab",
    "a switch of protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_that_reads_in_two_ways_is_a_502_of_the_routers_own(way: str, sent: bytes) -> None:
    async with routing("A", max_retries=0) as setup:
        worker = setup.workers[0]
        handle = worker.handle

        async def broken(request: Request, responder: Responder) -> None:
            if request.method == "GET" or request.headers.get("x-request-id", "").startswith("probe-"):
                await handle(request, responder)
                return
            responder.transport.write(sent)
            await asyncio.sleep(0.05)
            responder.abort()

        worker.server.handler = broken
        got = await WAYS[way][0](setup)
        assert got.status == 502 and got.error["code"] == "worker_unreachable"
        assert set(got.headers) - {"x-tercet-route"} == {"x-request-id", "content-type", "content-length"}
