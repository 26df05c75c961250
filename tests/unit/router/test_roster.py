"""Workers join, leave and change their ways under load, and no request is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from tercet.router import roster
from tests.unit.router.fake_worker import FakeWorker
from tests.unit.router.harness import Got, Setup, routing, until


def name_of(worker: FakeWorker) -> str:
    return quote(worker.url, safe="")


@asynccontextmanager
async def joining(setup: Setup, letter: str) -> AsyncIterator[FakeWorker]:
    worker = await FakeWorker(letter, setup.tickets).start()
    setup.workers.append(worker)
    yield worker


@asynccontextmanager
async def load(setup: Setup) -> AsyncIterator[list[Got]]:
    """Requests one after another from eight clients, half of them streamed."""
    answers: list[Got] = []
    stop = asyncio.Event()

    async def client(i: int) -> None:
        while not stop.is_set():
            got = await setup.complete("a b c", max_tokens=3, stream=bool(i % 2))
            answers.append(got)
            assert got.status == 200 and (got.streamed if i % 2 else got.text) == "w3 w4 w5", got.body

    tasks = [asyncio.create_task(client(i)) for i in range(8)]
    try:
        yield answers
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_a_worker_joins_and_gets_requests_once_it_is_proven() -> None:
    async with routing("A", "aggregated", balancer="round_robin") as setup, joining(setup, "A") as worker:
        worker.status = 500
        got = await setup.post("/workers", {"url": worker.url, "role": "worker"})
        assert got.status == 201 and got.json == {"url": worker.url, "role": "worker"}
        assert [(await setup.complete("a")).route for _ in range(4)] == ["A0"] * 4
        worker.status = 200
        await setup.ready()
        assert {(await setup.complete("a")).route for _ in range(4)} == {"A0", "A1"}
        again = await setup.post("/workers", {"url": worker.url + "/", "role": "A"})
        assert again.status == 409 and "here already" in again.error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"url": "http://x:1"}, "a worker joins as"),
        (b"[", "a worker joins as"),
        (b"[" * 100_000, "a worker joins as"),
        (b"[]", "a worker joins as"),
        ({"url": "http://[x:1", "role": "decode"}, "http://HOST:PORT"),
        ({"url": "http://a b:1", "role": "decode"}, "http://HOST:PORT"),
        ({"url": "http://x:1/a\nb", "role": "decode"}, "http://HOST:PORT"),
        ({"url": "http://x:1/a b", "role": "decode"}, "http://HOST:PORT"),
        ({"url": "http://x:1?a=b", "role": "decode"}, "http://HOST:PORT"),
        ({"url": "http://\u4f8b\u3048:1", "role": "decode"}, "http://HOST:PORT"),
        ({"url": "http://x:1", "role": "boss"}, "encode, prefill, decode, worker"),
        ({"url": "x", "role": "decode"}, "http://HOST:PORT"),
        ({"url": "http://x:1#bootstrap=5", "role": "decode"}, "knows no bootstrap ports"),
        ({"url": "http://x:1#events-here=BUSY", "role": "decode"}, "can't listen for the KV events of D0"),
    ],
)
async def test_what_is_no_worker_does_not_join(body: dict[str, str] | bytes, words: str) -> None:
    async with routing("A") as setup:
        if isinstance(body, dict):
            body = {name: value.replace("BUSY", str(setup.router.port)) for name, value in body.items()}
        got = await setup.post("/workers", body)
        assert got.status == 400 and words in got.error["message"]
        assert len(setup.router.parts.fleet.workers) == 1


async def test_a_worker_that_leaves_ends_what_it_began_and_gets_nothing_new() -> None:
    async with routing("PDD", "pd", balancer="round_robin") as setup:
        leaving = setup.role("D")[0]
        leaving.gate, leaving.gate_after = asyncio.Event(), 1
        stream = asyncio.create_task(setup.complete("a b c", stream=True, max_tokens=3))
        await until(lambda: leaving.inferences)
        got = await setup.send("DELETE", f"/workers/{name_of(leaving)}")
        assert got.status == 202 and got.json == {"url": leaving.url, "draining": True, "in_flight": 1}
        assert [(await setup.complete("x")).route for _ in range(3)] == ["P0>D1"] * 3
        status = {worker["url"]: worker for worker in (await setup.status())["workers"]}
        assert status[leaving.url]["draining"] and not status[leaving.url]["ready"]
        assert (await setup.post("/workers", {"url": leaving.url, "role": "decode"})).status == 409
        await asyncio.sleep(0.3)
        assert leaving.url in setup.router.parts.fleet.workers, "it waits for the stream, however often it is healthy"
        leaving.gate.set()
        assert (await stream).streamed == "w3 w4 w5"
        await until(lambda: leaving.url not in setup.router.parts.fleet.workers)
        assert len(leaving.inferences) == 1
        assert (await setup.send("DELETE", "/workers/D0")).status == 404
        # It may come back, and is nobody new to be learned of.
        assert (await setup.post("/workers", {"url": leaving.url, "role": "decode"})).status == 201
        leaving.gate = None
        await setup.ready()
        await setup.idle()


async def test_who_does_not_end_in_time_is_cut_off() -> None:
    async with routing("AA", "aggregated", balancer="round_robin") as setup:
        leaving = setup.workers[0]
        leaving.gate, leaving.gate_after = asyncio.Event(), 1
        stream = asyncio.create_task(setup.complete("a b c", stream=True, max_tokens=3))
        await until(lambda: leaving.inferences)
        assert (await setup.send("DELETE", "/workers/A0?timeout=x")).status == 400
        assert (await setup.send("DELETE", "/workers/A0?timeout=0.1")).status == 202
        got = await asyncio.wait_for(stream, 30)
        assert got.status == 200 and got.events[-1] != "[DONE]"
        await until(lambda: leaving.url not in setup.router.parts.fleet.workers)
        assert (await setup.complete("a")).route == "A1"


async def test_a_p_that_has_handed_on_leaves_while_d_answers() -> None:
    async with routing("PPD", "pd", balancer="round_robin") as setup:
        leaving, decode = setup.workers[0], setup.role("D")[0]
        decode.gate, decode.gate_after = asyncio.Event(), 1
        stream = asyncio.create_task(setup.complete("a b c", stream=True, max_tokens=3))
        await setup.answering()
        got = await setup.send("DELETE", f"/workers/{name_of(leaving)}")
        assert leaving.inferences and got.json == {"url": leaving.url, "draining": True, "in_flight": 0}
        await until(lambda: leaving.url not in setup.router.parts.fleet.workers)
        decode.gate.set()
        answer = await stream
        assert (answer.route, answer.streamed) == ("P0>D0", "w3 w4 w5")
        await setup.idle()
        assert not any(setup.router.parts.visits.values())


@pytest.mark.parametrize(
    ("letters", "mode", "seeing", "role"),
    [
        ("EPD", "epd", "apart", "E"),
        ("EPD", "epd", "apart", "P"),
        ("PD", "pd", "local", "P"),
        ("EA", "epd", "apart", "E"),
    ],
)
async def test_whoever_may_be_asked_for_embeddings_again_stays_until_the_answer_is_whole(
    letters: str, mode: str, seeing: str, role: str
) -> None:
    """An engine that has to compute a prompt again, as its blocks went to another, reads those of the pictures anew."""
    async with routing(letters, mode, seeing=seeing) as setup:
        leaving, last = setup.role(role)[0], setup.role(letters[-1])[0]
        last.gate, last.gate_after = asyncio.Event(), 1
        stream = asyncio.create_task(setup.look([b"one", "what is this"], stream=True, max_tokens=3))
        await setup.answering()
        got = await setup.send("DELETE", f"/workers/{name_of(leaving)}")
        assert got.json == {"url": leaving.url, "draining": True, "in_flight": 1}
        last.gate.set()
        assert (await stream).events[-1] == "[DONE]"
        await until(lambda: leaving.url not in setup.router.parts.fleet.workers)


async def test_what_outlasts_being_cut_off_leaves_no_debt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "CUT_S", 0.0)
    async with routing("PPD", "pd", balancer="round_robin", max_unaccepted_handoffs=1) as setup:
        leaving, decode, visits = setup.workers[1], setup.role("D")[0], setup.router.parts.visits
        decode.gate = asyncio.Event()
        asked = [asyncio.create_task(setup.complete("a b"))]
        await until(lambda: decode.inferences)
        asked.append(asyncio.create_task(setup.complete("c d")))  # which waits until D may be owed one more
        await until(lambda: visits[leaving.url])
        assert (await setup.send("DELETE", f"/workers/{name_of(leaving)}?timeout=0")).status == 202
        await until(lambda: leaving.url not in setup.router.parts.fleet.workers)
        decode.gate.set()
        assert [(await got).route for got in asked] == ["P0>D0", "P1>D0"]
        await setup.idle()
        assert [visits[worker.url] for worker in setup.workers] == [0, 0, 0]


async def test_who_leaves_may_be_given_less_time_but_not_more() -> None:
    async with routing("AA", "aggregated", balancer="round_robin") as setup:
        leaving = setup.workers[0]
        leaving.gate, leaving.gate_after = asyncio.Event(), 1
        stream = asyncio.create_task(setup.complete("a b c", stream=True, max_tokens=3))
        await until(lambda: leaving.inferences)
        for timeout, left in (("300", 300), ("100", 100), ("200", 100)):
            assert (await setup.send("DELETE", f"/workers/A0?timeout={timeout}")).status == 202
            status = {worker["url"]: worker for worker in (await setup.status())["workers"]}
            assert left - 20 < status[leaving.url]["drain_left_s"] <= left
        assert (await setup.send("DELETE", "/workers/A0?timeout=0")).status == 202
        got = await asyncio.wait_for(stream, 30)
        assert got.status == 200 and got.events[-1] != "[DONE]"
        await until(lambda: leaving.url not in setup.router.parts.fleet.workers)


async def test_a_worker_whose_name_dns_cant_hold_is_unreachable_and_can_leave() -> None:
    async with routing("A", "aggregated") as setup:
        url = f"http://{'x' * 64}.example:1"
        assert (await setup.post("/workers", {"url": url, "role": "worker"})).status == 201
        await until(lambda: "cannot connect" in str(setup.router.prober.problem(url)))
        assert (await setup.complete("a")).status == 200
        assert (await setup.send("DELETE", "/workers/A1")).status == 202
        await until(lambda: url not in setup.router.parts.fleet.workers)


async def test_under_load_joining_leaving_and_changing_the_mode_lose_nothing() -> None:
    async with routing("APPDD", "pd") as setup, joining(setup, "P") as more:
        for worker in setup.workers:
            worker.token_s = 0.005
        async with load(setup) as answers:
            await setup.post("/workers", {"url": more.url, "role": "prefill"})
            for mode in ("aggregated", "ppd", "pd", "replicated", "pd"):
                seen = len(answers)
                assert (await setup.post(f"/mode/{mode}")).status == 200
                await until(lambda seen=seen: len(answers) > seen + 10)  # type: ignore[misc]
            for leaving in (setup.workers[1], setup.workers[4]):
                assert (await setup.send("DELETE", f"/workers/{name_of(leaving)}")).status == 202
                await until(lambda url=leaving.url: url not in setup.router.parts.fleet.workers)  # type: ignore[misc]
            seen = len(answers)
            await until(lambda: len(answers) > seen + 10)
        await setup.idle()
        assert len(more.inferences) > 0


async def test_only_an_admin_changes_the_roster() -> None:
    async with routing("A", api_keys=("sesame",)) as setup:
        for method, path in (("POST", "/workers"), ("DELETE", "/workers/A0")):
            assert (await setup.send(method, path)).status == 401
