from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import accumulate
from statistics import median
from time import perf_counter_ns

import pytest

from tercet.bench.drive import drive
from tercet.bench.health import Vitals, judge
from tercet.bench.load import run_load
from tercet.bench.result import RequestResult
from tercet.bench.sender import Sender
from tercet.core.errors import RequestError
from tercet.http.client import Client
from tercet.http.server import Request, Responder, Server
from tercet.results.record import RequestRecord
from tercet.traffic.conversation import TokenRange, TurnSpec
from tercet.traffic.spec import TrafficSpec, conversations
from tercet.traffic.workload import Workload

from .talks import PlainTalk, talks


def peak_concurrency(results: list[RequestResult]) -> int:
    """Return the most requests that were under way at one instant."""
    changes = [(result.sent_ns, 1) for result in results] + [(result.done_ns, -1) for result in results]
    return max(accumulate(change for _, change in sorted(changes)))


class Model:
    """Answers with token ids that say how long the prompt was; remembers what it was asked."""

    def __init__(self, delay_s: float = 0.0, *, hold: int = 0, stuck_after: int = 10**9) -> None:
        self.delay_s = delay_s
        self.stuck_after = stuck_after  # who asks when so many have is answered never
        self.hold = hold  # nobody is answered before so many have asked
        self.held = asyncio.Event()
        self.asked: list[tuple[str, list[int]]] = []
        self.cancelled = 0

    async def __call__(self, request: Request, responder: Responder) -> None:
        body = json.loads(request.body)
        self.asked.append((request.headers["x-session-id"], body["prompt"]))
        if body["model"] == "unknown":
            raise RequestError(404, "no such model")
        if len(self.asked) >= self.hold:
            self.held.set()
        try:
            await self.held.wait()
            await asyncio.sleep(60 if len(self.asked) > self.stuck_after else self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        responder.start(200, headers=[("X-Tercet-Cached-Tokens", "2"), ("X-Tercet-Route", "P0>D0")])
        for i in range(body["max_tokens"]):
            choice = {"index": 0, "text": "x", "token_ids": [1000 * len(body["prompt"]) + i]}
            responder.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        responder.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())


@asynccontextmanager
async def serving(model: Model) -> AsyncIterator[str]:
    server = Server(model)
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close(0)


async def _load(
    url: str, conversations_: list[PlainTalk], *, concurrency: int | None = None, model: str = "m"
) -> tuple[list[RequestResult], Vitals, int]:
    results: list[RequestResult] = []
    client = Client()
    origin_ns = perf_counter_ns() + 20_000_000
    try:
        vitals = await run_load(
            Sender(client, url),
            conversations_,
            model=model,
            origin_ns=origin_ns,
            on_result=results.append,
            concurrency=concurrency,
        )
    finally:
        await client.close()
    return results, vitals, origin_ns


async def test_open_loop_sends_when_due_whatever_the_server_does() -> None:
    async with serving(Model(hold=10)) as url:
        results, vitals, origin_ns = await _load(url, talks(10, every_s=0.02))
    assert [result.error for result in results] == [None] * 10
    assert peak_concurrency(results) == 10
    for i, result in enumerate(sorted(results, key=lambda result: result.scheduled_ns)):
        assert result.scheduled_ns == origin_ns + int(i * 0.02 * 1e9)
        assert result.delay_ms >= 0
    health = judge([result.record(origin_ns) for result in results], (vitals,))
    assert median(result.delay_ms for result in results) < 50 + health.loop_lag_ms_max
    assert health.saturated == (health.lateness_ms_p99 > max(5.0, 0.05 * median(r.ttft_ms or 0.0 for r in results)))


async def test_a_turn_follows_the_end_of_the_one_before_and_carries_its_tokens() -> None:
    model = Model(delay_s=0.02)
    talk = PlainTalk("c", 0.0, (TurnSpec(1, 2), TurnSpec(1, 3, think_s=0.05), TurnSpec(1, 1)))
    async with serving(model) as url:
        results, _, _ = await _load(url, [talk])
    assert [result.turn for result in results] == [1, 2, 3]
    assert [prompt for _, prompt in model.asked] == [
        [100],
        [100, 1000, 1001, 101],
        [100, 1000, 1001, 101, 4000, 4001, 4002, 102],
    ]
    assert results[1].scheduled_ns == results[0].done_ns + 50_000_000
    assert results[2].scheduled_ns == results[1].done_ns
    assert results[1].sent_ns >= results[1].scheduled_ns
    assert [result.cached_tokens for result in results] == [2, 2, 2] and results[0].route == "P0>D0"


async def test_closed_loop_keeps_so_many_under_way() -> None:
    async with serving(Model(delay_s=0.02)) as url:
        results, _, _ = await _load(url, talks(12, turns=2, every_s=100.0), concurrency=3)
    assert len(results) == 24 and all(result.ok for result in results)
    assert peak_concurrency(results) == 3
    assert [r.conversation for r in sorted(results, key=lambda r: r.sent_ns)][:3] == ["c0", "c1", "c2"]


async def test_a_failed_turn_ends_its_conversation_and_says_so() -> None:
    async with serving(Model()) as url:
        results, _, _ = await _load(url, talks(2, turns=3), model="unknown")
    for name in ("c0", "c1"):
        mine = [result for result in results if result.conversation == name]
        assert [(result.turn, result.status, result.failure, result.error) for result in mine] == [
            (1, 404, "http_4xx", "HTTP 404: no such model"),
            (2, 0, "not_sent", "not sent: turn 1 failed"),
            (3, 0, "not_sent", "not sent: turn 1 failed"),
        ]


async def test_a_server_that_is_not_there_is_an_error_of_each_request() -> None:
    async with serving(Model()) as url:
        pass
    results, _, _ = await _load(url, talks(3))
    assert all(result.failure == "refused" and result.status == 0 for result in results)


async def test_cancelling_keeps_what_was_measured_and_cuts_the_rest() -> None:
    model = Model(stuck_after=3)
    results: list[RequestResult] = []
    async with serving(model) as url:
        client = Client()
        task = asyncio.create_task(
            run_load(
                Sender(client, url),
                talks(20, every_s=0.04),
                model="m",
                origin_ns=perf_counter_ns(),
                on_result=results.append,
            )
        )
        async with asyncio.timeout(30):
            while len(results) < 3:
                await asyncio.sleep(0.005)
            while len(model.asked) == 3:
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()
        async with asyncio.timeout(30):
            while not model.cancelled:
                await asyncio.sleep(0.005)
        assert len(results) == 3 and all(result.ok for result in results)


async def test_the_projects_own_conversations_become_records_of_a_results_file() -> None:
    spec = TrafficSpec(Workload("w", 5, 3), qps=200.0, num_requests=6, turns=2, seed=1)
    planned = conversations(spec, salt="s", tokens=TokenRange(300, 400))
    records: list[RequestRecord] = []
    contents: list[RequestResult] = []
    async with serving(Model()) as url:
        health = await drive(
            url, planned, model="m", cache_salt="x", on_record=records.append, on_result=contents.append
        )
    assert len(records) == len(contents) == 6 and all(record.ok for record in records)
    first = {record.conversation: record for record in records if record.turn == 1}
    for conversation in planned:
        record = first[conversation.id]
        assert record.due_s == pytest.approx(conversation.arrival_s, abs=1e-6) and record.prompt_tokens == 5
    assert {record.prompt_tokens for record in records if record.turn == 2} == {13}
    assert {(record.output_tokens, record.expected_output_tokens) for record in records} == {(3, 3)}
    assert len({record.output_digest for record in records}) == 2  # by prompt length
    assert health.lateness_ms_p99 >= 0 and health.saturated == bool(health.reasons)


async def test_a_closed_loop_whose_client_does_not_keep_up_is_no_evidence() -> None:
    """What it sends follows what it has read: nothing is ever sent late there, and read late all the same."""
    records: list[RequestRecord] = []

    def dawdle(record: RequestRecord) -> None:
        records.append(record)
        until = perf_counter_ns() + 40_000_000
        while perf_counter_ns() < until:
            pass

    spec = TrafficSpec(Workload("w", 5, 3), qps=1.0, num_requests=24, concurrency=8)
    planned = conversations(spec, salt="s", tokens=TokenRange(300, 400))
    async with serving(Model()) as url:
        health = await drive(url, planned, model="m", on_record=dawdle, concurrency=8)
    assert len(records) == 24 and all(record.ok for record in records)
    assert health.saturated and "read" in health.reasons[0]
