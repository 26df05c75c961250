"""More is asked than can be served: whoever waits gets his turn, and the rest a clean answer at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tercet.core.api_keys import ApiKey, digest_of
from tercet.core.stage import ROLE_STAGES
from tercet.http.client import ClientError
from tercet.http.server import Responder
from tercet.router.config import RouterConfig
from tercet.router.gate import Gate
from tercet.router.live import Live
from tercet.router.metrics import RouterMetrics
from tercet.routing.events import RankHealth, WorkerAdded
from tercet.routing.fleet import FleetState
from tests.unit.router.fake_worker import FakeWorker
from tests.unit.router.harness import Got, Setup, routing, until


def keys(folder: Path, **priorities: bool) -> str:
    path = folder / "keys.txt"
    lines = [ApiKey(name, digest_of(name), priority=first).line() for name, first in priorities.items()]
    path.write_text("\n".join(lines))
    return str(path)


def ask(setup: Setup, prompt: str, key: str = "", **headers: str) -> asyncio.Task[Got]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        sent["Authorization"] = f"Bearer {key}"
    return asyncio.create_task(setup.complete(prompt, headers=sent))


async def hold(setup: Setup) -> asyncio.Event:
    """Let one request in that stays until the event is set."""
    worker = setup.workers[0]
    worker.gate = asyncio.Event()
    return worker.gate


def prompts(worker: FakeWorker) -> list[str]:
    return [str(body["prompt"]) for _, body, _ in worker.inferences]


async def test_who_finds_no_room_waits_for_it_and_tenants_take_turns(tmp_path: Path) -> None:
    async with routing("A", max_concurrent=1, api_key_file=keys(tmp_path, greedy=False, modest=False)) as setup:
        gate = await hold(setup)
        requests = []
        for prompt, key in (("g0", "greedy"), ("g1", "greedy"), ("g2", "greedy"), ("m0", "modest")):
            requests.append(ask(setup, prompt, key))
            await until(lambda: setup.router.parts.gates.waiting + len(setup.workers[0].inferences) == len(requests))
        assert prompts(setup.workers[0]) == ["g0"]
        assert await setup.metric("tercet:router_waiting") == 3
        gate.set()
        answers = await asyncio.gather(*requests)
        assert [got.status for got in answers] == [200] * 4
        assert prompts(setup.workers[0]) == ["g0", "g1", "m0", "g2"]
        assert "admission;dur=" in answers[1].headers["server-timing"]
        assert await setup.metric("tercet:router_admissions_total", result="waited") == 3
        await setup.idle()


async def test_only_who_may_goes_first(tmp_path: Path) -> None:
    async with routing("A", max_concurrent=1, api_key_file=keys(tmp_path, first=True, other=False)) as setup:
        gate = await hold(setup)
        requests = []
        for prompt, key, wish in (("a", "other", "0"), ("b", "other", "9"), ("c", "first", "5"), ("d", "other", "-1")):
            requests.append(ask(setup, prompt, key, x_tercet_priority=wish))
            await until(lambda: setup.router.parts.gates.waiting + len(setup.workers[0].inferences) == len(requests))
        gate.set()
        await asyncio.gather(*requests)
        assert prompts(setup.workers[0]) == ["a", "c", "b", "d"]
        await setup.idle()


async def test_a_full_queue_says_when_to_come_back() -> None:
    async with routing("A", max_concurrent=1, max_queue=1) as setup:
        gate = await hold(setup)
        requests = [ask(setup, "a"), ask(setup, "b")]
        await until(lambda: setup.router.parts.gates.waiting == 1)
        got = await setup.complete("c")
        assert got.status == 429 and got.error["code"] == "queue_full" and got.error["type"] == "rate_limit_error"
        assert int(got.headers["retry-after"]) >= 1
        gate.set()
        assert [got.status for got in await asyncio.gather(*requests)] == [200, 200]
        assert await setup.metric("tercet:router_admissions_total", result="full") == 1
        await setup.idle()


async def test_waiting_has_a_deadline_and_ends_with_the_client() -> None:
    async with routing("A", max_concurrent=1, queue_timeout_s=0.2) as setup:
        gate = await hold(setup)
        first = ask(setup, "a")
        await until(lambda: setup.workers[0].inferences)
        got = await setup.complete("b")
        assert got.status == 503 and got.error["code"] == "queue_timeout" and "retry-after" in got.headers
        setup.router.parts.live.queue_timeout_s = 60
        leaving = ask(setup, "c")
        await until(lambda: setup.router.parts.gates.waiting == 1)
        leaving.cancel()
        await until(lambda: setup.router.parts.gates.waiting == 0)
        gate.set()
        assert (await first).status == 200
        assert (await setup.complete("d")).status == 200, "no place was lost"
        await setup.idle()


async def test_who_is_sent_away_may_have_left_this_moment() -> None:
    fleet, live = FleetState(), Live.of(RouterConfig(workers=("http://a:1",), max_concurrent=1, max_queue=1))
    for event in (WorkerAdded("http://a:1", ROLE_STAGES["A"], 1), RankHealth("http://a:1", True)):
        fleet.apply(event)
    gate = Gate(fleet, RouterMetrics(), "", live, 1)
    assert gate.admit()
    leaving = asyncio.create_task(gate.enter("many", -1, 60))
    await until(lambda: gate.waiting == 1)
    coming = asyncio.create_task(gate.enter("few", 0, 60))
    leaving.cancel()  # it has not noticed when the queue, in which it still is, is full
    await asyncio.wait({leaving})
    gate.leave()
    await asyncio.wait_for(coming, 30)
    assert leaving.cancelled()
    gate.leave()
    assert gate.empty


async def test_who_waits_is_let_in_once_another_worker_is_ready() -> None:
    async with routing("A", "aggregated", max_concurrent=1) as setup:
        gate = await hold(setup)
        first, second = ask(setup, "a"), ask(setup, "b")
        await until(lambda: setup.router.parts.gates.waiting == 1)
        joining = await FakeWorker("A", setup.tickets).start()
        setup.workers.append(joining)
        assert (await setup.post("/workers", {"url": joining.url, "role": "worker"})).status == 201
        done, _ = await asyncio.wait({first, second}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().route for task in done] == ["A1"], "it does not wait for the end of another"
        gate.set()
        assert (await first).status == (await second).status == 200
        await setup.idle()


async def test_who_waits_is_let_in_by_a_mode_with_more_room() -> None:
    async with routing("APDD", "aggregated", max_concurrent=1) as setup:
        gate = await hold(setup)
        requests = [ask(setup, "a"), ask(setup, "b")]
        await until(lambda: setup.router.parts.gates.waiting == 1)
        assert (await setup.post("/mode/pd")).status == 200
        done, _ = await asyncio.wait(requests, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        gate.set()
        assert [got.status for got in await asyncio.gather(*requests)] == [200, 200]
        await setup.idle()


async def test_who_names_no_model_waits_with_those_who_name_the_only_one() -> None:
    async with routing("A", "aggregated", max_concurrent=1) as setup:
        gate = await hold(setup)
        first = ask(setup, "a")
        await until(lambda: setup.workers[0].inferences)
        second = asyncio.create_task(setup.post("/v1/completions", {"prompt": "b"}))
        await until(lambda: setup.router.parts.gates.waiting + len(setup.workers[0].inferences) == 2)
        assert len(setup.workers[0].inferences) == 1
        gate.set()
        assert (await first).status == (await second).status == 200
        await setup.idle()


async def test_without_a_worker_nobody_waits_for_one() -> None:
    async with routing("A", max_concurrent=1, queue_timeout_s=30) as setup:
        gate = await hold(setup)
        first, second = ask(setup, "a"), ask(setup, "b")
        await until(lambda: setup.router.parts.gates.waiting == 1)
        await setup.workers[0].stop()
        assert {got.status for got in await asyncio.wait_for(asyncio.gather(first, second), 20)} <= {502, 503}
        gate.set()


class Steady:
    """A clock that stands still when this process does: it goes on by what passed, and by 20 ms at most at once."""

    now = 0.0

    async def run(self) -> None:
        then = monotonic()
        while True:
            await asyncio.sleep(0.005)
            then, before = monotonic(), then
            self.now += min(then - before, 0.02)


class Overloadable(FakeWorker):
    """Eight requests at once take 400 ms each; more slow all of them down out of proportion, as when an engine preempts
    and computes again."""

    clock = Steady()

    async def _serve(self, path: str, body: dict[str, Any], responder: Responder) -> None:
        left, then = 0.4, self.clock.now
        while left > 0:
            await asyncio.sleep(0.005)
            now = self.clock.now
            left, then = left - (now - then) / max(1.0, (self.running / 8) ** 2), now
        await super()._serve(path, body, responder)


async def goodput(setup: Setup, rate: float, seconds: float) -> float:
    """Ask at a rate, whatever is answered; return the good answers a second until `seconds` are over."""
    clock = Overloadable.clock
    good, begin = 0, clock.now

    async def one(i: int) -> None:
        nonlocal good
        got = await setup.complete(f"a {i}", max_tokens=1)
        good += got.status == 200 and clock.now - begin <= seconds
        assert got.status in (200, 429, 503)

    tasks = []
    for i in range(int(rate * seconds)):
        tasks.append(asyncio.create_task(one(i)))
        while clock.now < begin + (i + 1) / rate:
            await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    faults = [end for end in ends if isinstance(end, Exception) and not isinstance(end, ClientError)]
    assert not faults, faults[:3]
    return good / seconds


async def test_at_three_times_the_sustainable_load_goodput_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.router.harness.FakeWorker", Overloadable)
    settings: dict[str, Any] = {"max_concurrent": 8, "max_queue": 32, "health_timeout_s": 5.0, "connect_timeout_s": 5.0}
    running = asyncio.create_task(Overloadable.clock.run())
    async with routing("A", **settings) as setup:
        peak = await goodput(setup, 18, 2.5)
        overloaded = await goodput(setup, 54, 4.0)
        print(f"peak {peak:.1f}/s, at three times that {overloaded:.1f}/s")
        assert overloaded >= 0.9 * peak > 0
        assert await setup.metric("tercet:router_admissions_total", result="full") > 0, "it was too much"
    running.cancel()
