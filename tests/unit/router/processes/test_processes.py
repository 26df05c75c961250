"""`tercet router --workers 3`, as real processes: who dies comes back, what one is told all know."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from itertools import islice
from pathlib import Path
from time import monotonic

import psutil
import pytest

from tercet.core.api_keys import ApiKey, digest_of
from tercet.http.client import ClientError
from tests.unit.router.fake_worker import FakeWorker
from tests.unit.router.processes.family import many

pytestmark = pytest.mark.slow


def metric(text: bytes, name: str) -> float:
    lines = [line for line in text.decode().splitlines() if line.startswith((name + "{", name + " "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def test_every_process_serves_and_any_of_them_tells_of_all(tmp_path: Path) -> None:
    async with many(tmp_path) as router:
        for i in range(40):
            assert (await router.chat(f"hello {i}")).status == 200
        for _ in range(4):  # whichever answers
            records = (await router.get("/requests"))["requests"]
            assert len(records) == 40 and {record["process"] for record in records} == {0, 1, 2}
            ended = [record["started_at"] + record["duration_ms"] / 1e3 for record in records]
            assert ended == pytest.approx(sorted(ended, reverse=True), abs=0.01)
            assert metric((await router.send("GET", "/metrics")).body, "tercet:router_requests_total") == 40
            status = await router.status()
            assert status["counts"]["ppd"]["requests"] == 40 and status["conversations"] == 40
            assert sum(r["routed"] for w in status["workers"] for r in w["ranks"] if w["role"] == "D") == 40
        assert (await router.send("POST", "/metrics/clear")).status == 200
        assert metric((await router.send("GET", "/metrics")).body, "tercet:router_requests_total") == 0
        assert (await router.send("HEAD", "/status")).status == 200
        assert (await router.send("DELETE", "/status")).headers["allow"] == "GET, HEAD"
        assert (await router.send("GET", "/nothing")).status == 404
        assert (await router.send("POST", "/mode/epd")).json["error"]["code"] == "missing_stage"
        assert (await router.send("POST", "/metrics/clear", Origin="http://elsewhere")).status == 403


async def test_a_later_turn_goes_where_the_first_one_went_whichever_process_gets_it(tmp_path: Path) -> None:
    async with many(tmp_path) as router:
        for i in range(12):
            texts = [f"conversation {i} " + "word " * 80]
            first = await router.chat(*texts)
            d = first.route.split(">")[-1]
            for turn in range(3):
                texts += [first.text, f"and {turn}"]
                await router.settled()
                assert (await router.chat(*texts)).route == d, "straight to the D that holds it"
        assert {record["process"] for record in (await router.get("/requests"))["requests"]} == {0, 1, 2}


async def test_mode_and_workers_change_for_all_at_once(tmp_path: Path) -> None:
    async with many(tmp_path, "PD", "pd") as router:
        assert (await router.send("POST", "/mode/ppd")).json == {"mode": "ppd", "before": "pd"}
        for i in range(20):  # that the kernel gives all of them to one process is no chance to speak of
            assert (await router.chat(f"hi {i}")).status == 200
        records = (await router.get("/requests"))["requests"]
        assert {record["mode"] for record in records} == {"ppd"} and len({r["process"] for r in records}) > 1
        new = await FakeWorker("D", router.tickets).start()
        router.workers.append(new)
        joined = await router.send("POST", "/workers", {"url": new.url, "role": "decode"})
        assert joined.status == 201
        await router.until(lambda s: all(pair["ready"] for pair in s["pairs"]) and len(s["pairs"]) == 2, "the pair")
        old = router.workers[1]
        assert (await router.send("DELETE", "/workers/D0")).json["draining"]
        seen = len(old.inferences)
        for i in range(9):
            assert (await router.chat(f"ho {i}")).route == "P0>D1"
        assert len(old.inferences) == seen
        await router.until(lambda s: len(s["workers"]) == 2, "D0 to leave")


async def test_a_worker_leaves_only_after_the_requests_of_every_process(tmp_path: Path) -> None:
    async with many(tmp_path, "AA", "aggregated") as router:
        gate = asyncio.Event()
        for worker in router.workers:
            worker.gate = gate
        asked = [asyncio.create_task(router.chat(f"hi {i}")) for i in range(12)]
        await router.until(lambda s: s["in_flight"] == 12, "all to be under way")
        assert (await router.send("DELETE", "/workers/A0")).json["in_flight"] == router.workers[0].running > 0
        await asyncio.sleep(0.5)
        assert len((await router.status())["workers"]) == 2
        gate.set()
        assert {(await task).status for task in asked} == {200}
        await router.until(lambda s: len(s["workers"]) == 1, "A0 to leave")


async def test_one_that_is_killed_comes_back_and_the_others_go_on(tmp_path: Path) -> None:
    async with many(tmp_path, "AA", "replicated") as router:
        gate = asyncio.Event()
        for worker in router.workers:
            worker.gate = gate
        asked = [asyncio.create_task(router.chat(f"hi {i}", stream=True)) for i in range(12)]
        status = await router.until(lambda s: s["in_flight"] == 12, "all to be under way")
        victim = max(status["processes"], key=lambda p: p["in_flight"])
        os.kill(victim["pid"], signal.SIGKILL)
        left = 12 - victim["in_flight"]
        status = await router.until(lambda s: s["in_flight"] == left, "its requests to be withdrawn")
        assert sum(r["requests"] for w in status["workers"] for r in w["ranks"]) == left
        gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(not isinstance(answer, BaseException) for answer in answers) == left
        status = await router.until(lambda s: [p["ready"] for p in s["processes"]] == [True] * 3, "it to come back")
        again = next(p for p in status["processes"] if p["process"] == victim["process"])
        assert again["starts"] == 2 and again["pid"] != victim["pid"]
        for i in range(60):
            assert (await router.chat(f"ho {i}")).status == 200
        records = (await router.get("/requests"))["requests"]
        assert {record["process"] for record in records} == {0, 1, 2}


async def test_one_that_hangs_is_replaced(tmp_path: Path) -> None:
    async with many(tmp_path, "A", "aggregated", processes=2) as router:
        victim = (await router.status())["processes"][0]
        os.kill(victim["pid"], signal.SIGSTOP)
        deadline = asyncio.get_running_loop().time() + 90
        while True:  # the kernel goes on giving it connections until it is gone
            try:
                async with asyncio.timeout(1):
                    status = await router.status()
                if (status["processes"][0]["starts"], len(status["processes"])) == (2, 2):
                    break
            except (TimeoutError, ClientError):
                pass
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)
        assert not psutil.pid_exists(victim["pid"])


async def test_a_worker_that_fails_is_left_alone_by_all_after_as_many_failures_as_one_process_allows(
    tmp_path: Path,
) -> None:
    async with many(tmp_path, "AA", "aggregated", "--max-retries", "0", "--breaker-pause", "20") as router:
        router.workers[0].status = 500
        failed = 0
        for i in range(60):
            if (await router.chat(f"hi {i}")).status != 200:
                failed += 1
                await router.settled()
        assert failed == 5
        worker = (await router.status())["workers"][0]
        assert worker["ranks"][0]["breaker"] == "open" and not worker["ready"]


@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGINT, True),  # as a terminal does it
        (signal.SIGTERM, True),  # as systemd does it
        (signal.SIGTERM, False),
    ],
)
async def test_asked_to_end_streams_end_first_and_nothing_is_left(tmp_path: Path, number: int, group: bool) -> None:
    async with many(tmp_path, "A", "aggregated") as router:
        router.workers[0].gate_after, router.workers[0].gate = 2, asyncio.Event()
        asked = [asyncio.create_task(router.chat(f"hi {i}", stream=True, max_tokens=8)) for i in range(6)]
        await router.until(lambda s: s["in_flight"] == 6, "all to be under way")
        children = router.children()
        assert len(children) == 3
        if group and number == signal.SIGTERM:  # which of them is faster is chance: here the main process comes last
            for child in children:
                child.terminate()
            await asyncio.sleep(0.2)
        (os.killpg if group and number == signal.SIGINT else os.kill)(router.process.pid, number)
        await asyncio.sleep(0.3)
        router.workers[0].gate.set()
        assert [(await task).events[-1] for task in asked] == ["[DONE]"] * 6
        assert await asyncio.wait_for(router.process.wait(), 30) == 0
        assert not any(child.is_running() for child in children)


async def test_asked_twice_all_end_at_once(tmp_path: Path) -> None:
    async with many(tmp_path, "A", "aggregated", "--shutdown-grace", "60") as router:
        router.workers[0].gate_after, router.workers[0].gate = 2, asyncio.Event()
        asked = [asyncio.create_task(router.chat(f"hi {i}", stream=True, max_tokens=8)) for i in range(6)]
        await router.until(lambda s: s["in_flight"] == 6, "all to be under way")
        children = router.children()
        os.kill(router.process.pid, signal.SIGTERM)
        await router.closed()  # two signals that are seen at once are one
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in asked)
        assert await router.end(signal.SIGTERM) == 0
        assert not any(child.is_running() for child in children)
        assert all(isinstance(each, ClientError) for each in await asyncio.gather(*asked, return_exceptions=True))


async def test_without_its_main_process_no_process_stays(tmp_path: Path) -> None:
    async with many(tmp_path, "A", "aggregated") as router:
        children = router.children()
        router.process.kill()
        await router.process.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive


async def test_a_port_that_others_have_is_refused(tmp_path: Path) -> None:
    async with many(tmp_path, "A", "aggregated") as router:
        for reuse in (False, True):  # another program's, and another router's with processes of its own
            with socket.socket() as taken:
                if not reuse:
                    taken.bind(("127.0.0.1", 0))
                    taken.listen()
                port = router.port if reuse else taken.getsockname()[1]
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tercet", "router", "--workers", "2", "--port", str(port)),
                    *("--worker", router.workers[0].url),
                    stderr=asyncio.subprocess.PIPE,
                )
                _, said = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == 2 and b"the port is in use" in said


async def test_the_limits_of_a_key_hold_for_all_processes_together(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    lines = (ApiKey("op", digest_of("admin"), admin=True), ApiKey("a", digest_of("a"), requests_per_minute=12))
    keys.write_text("".join(f"{key.line()}\n" for key in lines))
    async with many(tmp_path, "A", "aggregated", "--api-key-file", str(keys), key="admin") as router:
        body = {"model": "m", "prompt": "hi"}
        began, got = monotonic(), []
        for _ in range(40):
            got.append((await router.send("POST", "/v1/completions", body, Authorization="Bearer a")).status)
            if got[-1] == 200:
                await router.settled()
        more = int((monotonic() - began) * 12 / 60)
        assert 12 <= got.count(200) <= 12 + more, "more than 30 without each other's news"
        assert set(got) == {200, 429}
        assert (await router.send("GET", "/status", Authorization="Bearer a")).status == 403
        assert (await router.send("GET", "/status", Authorization="Bearer b")).status == 401


async def test_places_are_shared_out(tmp_path: Path) -> None:
    flags = ("--max-concurrent", "4", "--max-queue", "0")
    async with many(tmp_path, "A", "aggregated", *flags, processes=2) as router:
        gate = router.workers[0].gate = asyncio.Event()
        # Half the places for each process, and connections are spread by chance: both halves are taken of so many.
        asked = [asyncio.create_task(router.chat(f"hi {i}")) for i in range(40)]
        async with asyncio.timeout(30):
            first = [(await answer).status for answer in islice(asyncio.as_completed(asked), 36)]
        assert set(first) == {429}
        await router.until(lambda s: s["in_flight"] == 4, "all places to be taken")
        gate.set()
        statuses = [(await task).status for task in asked]
        assert statuses.count(200) == 4
