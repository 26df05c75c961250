"""The record of each request: at /requests, and in its own stream."""

from __future__ import annotations

import asyncio
import json
from time import time
from typing import Any

import pytest

from tercet.core.stage import Mode
from tercet.dialects.usage import find_finish_reason
from tercet.http.sse import SSEParser
from tercet.router.account import Account
from tercet.router.record import KEPT, Recent
from tercet.router.timeline import TimelineWriter
from tests.unit.router.harness import Setup, routing, until

ASKED = {"X-Tercet-Timeline": "1"}
SECRET = "xylophone"
QUICK = "queue;dur=0.01, prefill;dur=0.02"


async def records(setup: Setup, query: str = "") -> list[dict[str, Any]]:
    await until(lambda: setup.router.parts.fleet.in_flight == 0)  # a client may have its answer a moment earlier
    got = await setup.get(f"/requests{query}")
    assert got.status == 200 and got.json["kept"] == KEPT
    found: list[dict[str, Any]] = got.json["requests"]
    return found


def phases(record: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(span["phase"], span["worker"]) for span in record["spans"]]


async def test_a_record_says_what_became_of_a_request_and_nothing_of_its_content() -> None:
    async with routing("PD", "ppd") as setup:
        setup.role("D")[0].timing = QUICK
        before = time()
        first = await setup.chat(f"{SECRET} " * 40, max_tokens=5, stream=True, headers={"X-Request-Id": "one"})
        options = {"include_usage": True}
        await setup.chat(f"{SECRET} " * 40, first.streamed, SECRET, max_tokens=7, stream=True, stream_options=options)
        await setup.idle()
        later, one = await records(setup)
        assert one["id"] == "one" and before <= one["started_at"] <= time()
        assert (one["mode"], one["turn"], one["model"], one["stream"]) == ("ppd", "first", "m", True)
        assert (one["status"], one["finish_reason"], one["error"], one["retries"]) == (200, "length", None, 0)
        assert one["route"] == "P0>D0" and [w["name"] for w in one["workers"]] == ["P0", "D0"]
        assert [w["url"] for w in one["workers"]] == [w.url for w in setup.workers]
        assert (one["prompt_tokens"], one["cached_tokens"], one["expected_cached_tokens"]) == (41, 0, 0)
        assert (one["output_tokens"], one["output_tokens_estimated"]) == (5, True)
        assert phases(one) == [
            ("prefill", "P0"),
            ("queue", "D0"),
            ("decode_first_token", "D0"),
            ("stream", "D0"),
        ]
        ends = [span["end_ms"] for span in one["spans"]]
        assert ends == sorted(ends) and ends[-1] <= one["duration_ms"] < 5000
        assert all(0 <= span["start_ms"] <= span["end_ms"] for span in one["spans"])
        assert (later["turn"], later["route"], later["output_tokens"]) == ("later", "D0", 7)
        assert later["output_tokens_estimated"] is False
        assert later["cached_tokens"] >= 41 and later["expected_cached_tokens"] >= 41
        assert [phase for phase, _ in phases(later)] == ["queue", "prefill", "decode_first_token", "stream"]
        assert SECRET not in json.dumps([later, one])


async def test_a_whole_answer_has_no_first_token() -> None:
    async with routing("A", "aggregated") as setup:
        setup.workers[0].timing = QUICK
        await setup.complete("a b c", max_tokens=4)
        (record,) = await records(setup)
        assert phases(record) == [("queue", "A0"), ("prefill", "A0"), ("stream", "A0")]
        assert (record["output_tokens"], record["finish_reason"], record["stream"]) == (4, "length", False)


async def test_what_failed_stays_in_the_record() -> None:
    async with routing("AA", "aggregated", balancer="round_robin", breaker_failures=9) as setup:
        setup.workers[0].status = setup.workers[1].status = 500
        failed = await setup.complete("a b", max_tokens=4)
        assert failed.status == 500
        setup.workers[1].status = 200
        while (await setup.complete("a b", max_tokens=4)).status != 200 or not (await records(setup))[0]["retries"]:
            pass
        retried, *_, first = await records(setup)
        assert (first["status"], first["error"]) == (500, "engine_dead")
        assert [span.get("error") for span in first["spans"]] == ["engine_dead"] * 2 and first["retries"] == 1
        assert [(span["worker"], span.get("error")) for span in retried["spans"]][:2] == [
            ("A0", "engine_dead"),
            ("A1", None),
        ]
        assert retried["route"] == "A1" and retried["error"] is None


async def test_refused_broken_and_abandoned_requests() -> None:
    async with routing("A", "aggregated") as setup:
        (worker,) = setup.workers
        await setup.complete("a", model="nope" * 100)
        await setup.post("/v1/completions", b"{")
        worker.cut_after = 2
        broken = await setup.complete("a", max_tokens=4, stream=True)
        assert broken.status == 200
        worker.cut_after, worker.finish = None, "error"
        await setup.complete("a", max_tokens=4, stream=True)
        worker.finish, worker.gate, worker.gate_after = "", asyncio.Event(), 1
        asking = asyncio.create_task(setup.complete("a", max_tokens=4, stream=True))
        await until(lambda: setup.router.parts.fleet.in_flight == 1 and worker.running)
        await asyncio.sleep(0.05)
        asking.cancel()
        await until(lambda: setup.router.parts.fleet.in_flight == 0)
        worker.gate = None
        gone, engine, cut, malformed, unknown = await records(setup)
        assert (unknown["status"], unknown["error"]) == (404, "model_not_found")
        assert (unknown["route"], unknown["workers"], unknown["prompt_tokens"]) == (None, [], None)
        assert len(unknown["model"]) == 128, "a client's word takes no memory"
        assert (malformed["status"], malformed["error"], malformed["spans"]) == (400, "invalid_json", [])
        for record, status, error in ((cut, 502, "worker_unreachable"), (engine, 502, "engine_error")):
            assert (record["status"], record["error"]) == (status, error)
            assert record["spans"][-1]["phase"] == "stream" and record["spans"][-1]["error"] == error
        assert engine["finish_reason"] == "error"
        assert (gone["status"], gone["error"]) == (499, "client_gone")
        assert gone["spans"][-1]["error"] == "cancelled"


async def test_waiting_is_a_span() -> None:
    async with routing("A", "aggregated", max_concurrent=1) as setup:
        gate = setup.workers[0].gate = asyncio.Event()
        asking = [asyncio.create_task(setup.complete("a", max_tokens=4)) for _ in range(2)]
        await until(lambda: setup.router.parts.gates.waiting == 1)
        await asyncio.sleep(0.03)
        gate.set()
        await asyncio.gather(*asking)
        waited, _ = await records(setup)
        assert phases(waited)[0] == ("queue", None)
        assert waited["spans"][0]["end_ms"] - waited["spans"][0]["start_ms"] > 20


@pytest.mark.parametrize("usage", [False, True])
async def test_the_timeline_comes_in_the_stream_before_its_end(usage: bool) -> None:
    async with routing("PD", "pd") as setup:
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
        plain = await setup.chat("hello", max_tokens=5, stream=True, **options)
        got = await setup.chat("hello", max_tokens=5, stream=True, headers=ASKED, **options)
        assert b": timeline" not in plain.body and got.streamed == plain.streamed
        comment = got.body.split(b"\n\n")[-3]
        assert got.body.endswith(b"data: [DONE]\n\n") and comment.startswith(b": timeline {")
        told = json.loads(comment.removeprefix(b": timeline "))
        kept = (await records(setup))[0]
        assert told["id"] == kept["id"] and told["finish_reason"] == "length" and "workers" not in told
        assert phases(told) == phases(kept)
        assert told["output_tokens"] == (5 if usage else None)
        assert b"127.0.0.1" not in got.body, "a client knows workers by their labels"


async def test_the_timeline_of_an_answer_that_ended_at_p() -> None:
    async with routing("PD", "pd") as setup:
        setup.role("P")[0].finish = "stop"
        got = await setup.chat("hello", max_tokens=5, stream=True, headers=ASKED)
        told = json.loads(said_of(got.body))
        assert phases(told) == [("prefill", "P0")] and told["finish_reason"] == "stop"


def said_of(body: bytes) -> str:
    parser = SSEParser()
    parser.feed(body)
    return parser.comment.removeprefix("timeline ")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_comment_is_found_however_the_stream_is_cut(newline: str) -> None:
    event = 'data: {"choices":[{"index":0,"text":"\\ndata: [DONE]","finish_reason":"stop"}]}'
    body = (f"{event}\n\n: data: [DONE]\n\ndata: [DONE]\n\n").replace("\n", newline).encode()
    for size in range(1, len(body)):
        writer = TimelineWriter(Account("x", Mode.PD, 0, ASKED), "D0")
        out = b"".join(writer.feed(body[at : at + size]) for at in range(0, len(body), size)) + writer.end()
        before, comment, after = out.partition(b": timeline ")
        told, _, rest = after.partition(b"\n\n")
        assert comment and before + rest == body and rest.startswith(b"data: [DONE]")
        assert json.loads(told)["finish_reason"] == "stop"


def test_a_stream_without_an_end_passes_whole() -> None:
    writer = TimelineWriter(Account("x", Mode.PD, 0, ASKED), "D0")
    assert writer.feed(b"data: a\n\ndata: [DO") + writer.end() == b"data: a\n\ndata: [DO"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"finish_reason":"stop"}', "stop"),
        (b'{"finish_reason": "length"} {"finish_reason": null}', "length"),
        (b'{"text":"\\"finish_reason\\":\\"x\\""}', None),
        (b'{"finish_reason":null}', None),
    ],
)
def test_finish_reasons(text: bytes, reason: str | None) -> None:
    assert find_finish_reason(text) == reason


def test_the_oldest_is_forgotten() -> None:
    recent = Recent(kept=3)
    for i in range(5):
        account = Account(str(i), Mode.PD, 0, {})
        account.end(200)
        recent.add(account)
    assert [record.id for record in recent.latest(9)] == ["4", "3", "2"]


async def test_how_many_are_told() -> None:
    async with routing("A", "aggregated") as setup:
        for _ in range(3):
            await setup.complete("a", max_tokens=1)
        assert len(await records(setup, "?limit=2")) == 2
        for bad in ("0", "257", "-1", "x", "", "²", "9" * 5000):
            assert (await setup.get(f"/requests?limit={bad}")).status == 400
        assert (await setup.post("/requests")).status == 405
