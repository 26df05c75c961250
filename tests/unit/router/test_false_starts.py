"""Engines say HTTP 200 before they know whether there will be an answer: what fails in a stream's first bytes nobody
has seen, and is no answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tercet.http.server import Request, Responder
from tests.unit.router.harness import Setup, routing, until

DONE = b"data: [DONE]\n\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":0}}\n\n'


def error(code: object) -> bytes:
    said = {"error": {"message": "no such grammar", "type": "SomeError", "param": "n", "code": code}}
    return b"data: %b\n\n" % json.dumps(said).encode()


def ended(reason: str) -> bytes:
    return b'data: {"choices":[{"index":0,"text":"","finish_reason":"%b"}]}\n\n' % reason.encode()


async def asked(setup: Setup, chat: bool = False, **extra: Any) -> Any:
    ask = setup.chat if chat else setup.complete
    return await ask("a b c", stream=True, max_tokens=3, **extra)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(("letters", "mode", "broken"), [("AA", "replicated", 0), ("PDD", "pd", 1)])
@pytest.mark.parametrize(
    "stream",
    [
        error(500) + DONE,
        error("engine_dead") + DONE,
        b'data: {"error": "out of memory"}\n\n',
        ROLE + error(500) + DONE,
        ended("abort") + DONE,
        ended("error") + DONE,
        DONE,
        USAGE + DONE,
        ROLE + USAGE + DONE,
    ],
)
async def test_it_is_tried_elsewhere(letters: str, mode: str, broken: int, stream: bytes, chat: bool) -> None:
    async with routing(letters, mode, balancer="round_robin") as setup:
        bad = setup.workers[broken]
        bad.stream = (stream,)
        for _ in range(3):
            got = await asked(setup, chat, headers={"X-Tercet-Timeline": "1"})
            assert got.status == 200 and got.streamed == ("w4 w5 w6" if chat else "w3 w4 w5"), got.body
        assert await setup.metric("tercet:router_retries_total") == len(bad.inferences) > 0
        assert not await setup.metric("tercet:router_stream_failures_total")
        await setup.idle()


@pytest.mark.parametrize(
    ("stream", "status"), [(error(500), 500), (error("engine_dead"), 502), (ended("abort"), 502), (DONE, 502)]
)
async def test_with_nobody_else_the_client_gets_an_error_and_the_worker_is_taken_out(
    stream: bytes, status: int
) -> None:
    async with routing("A", breaker_failures=2, breaker_pause_s=30.0) as setup:
        setup.workers[0].stream = (stream,)
        for _ in range(2):
            got = await asked(setup)
            assert got.status == status and got.error["type"], got.body
        assert (await asked(setup)).error["code"] == "no_worker_ready"
        record = (await setup.get("/requests")).json["requests"][1]
        assert record["status"] == status and record["spans"][-1]["error"] == record["error"]
        assert not await setup.metric("tercet:router_time_to_first_byte_seconds_count")


async def test_a_4xx_is_the_clients_own_affair() -> None:
    async with routing("PDD", "pd", breaker_failures=1) as setup:
        for worker in setup.role("D"):
            worker.stream = (error(400) + DONE,)
        for count in (1, 2):
            got = await asked(setup)
            assert (got.status, got.error["message"], got.error["param"]) == (400, "no such grammar", "n")
            assert got.headers["content-type"] == "application/json"
            assert sum(len(worker.inferences) for worker in setup.role("D")) == count
        assert all(worker["ready"] for worker in (await setup.status())["workers"])
        assert not await setup.metric("tercet:router_stream_failures_total")
        await setup.idle()


@pytest.mark.parametrize(("code", "ready"), [(400, True), (500, False)])
async def test_whose_fault_an_error_is_that_comes_in_parts_shows_at_its_end(code: int, ready: bool) -> None:
    async with routing("A", breaker_failures=1, breaker_pause_s=30.0) as setup:
        (worker,) = setup.workers
        said = error(code) + DONE
        worker.stream, worker.gate, worker.gate_after = (said[:30], said[30:]), asyncio.Event(), 1
        stream = asyncio.create_task(asked(setup))
        await setup.answering()
        worker.gate.set()
        got = await stream
        assert got.status == 200 and got.body == said
        await until(lambda: setup.router.parts.fleet.in_flight == 0)
        assert setup.router.parts.fleet.ready(worker.url) is ready
        assert await setup.metric("tercet:router_stream_failures_total") == 1


async def test_a_stream_that_came_whole_is_looked_at_too() -> None:
    async with routing("AA", "aggregated", balancer="round_robin") as setup:
        handler = setup.workers[0].server.handler

        async def whole(request: Request, responder: Responder) -> None:
            if b'"stream": true' in request.body:
                await responder.send(200, error(500), content_type="text/event-stream")
            else:
                await handler(request, responder)

        setup.workers[0].server.handler = whole
        for _ in range(2):
            assert (await asked(setup)).streamed == "w3 w4 w5"
        assert await setup.metric("tercet:router_retries_total") > 0


@pytest.mark.parametrize("text", ["data: [DONE]", '\\ndata: {\\"error\\": \\"finish_reason\\":\\"abort\\"'])
async def test_an_answer_may_speak_of_all_that(text: str) -> None:
    async with routing("A") as setup:
        said = b'data: {"choices":[{"index":0,"text":"%b","finish_reason":null}]}\n\n' % text.encode()
        setup.workers[0].stream = (said,)
        got = await asked(setup)
        assert got.status == 200 and got.body == said
        await until(lambda: setup.router.parts.fleet.in_flight == 0)
        assert not await setup.metric("tercet:router_stream_failures_total")
