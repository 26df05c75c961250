from __future__ import annotations

import pytest

from tests.unit.router.harness import routing, until


async def test_mode() -> None:
    async with routing("PD", "ppd") as setup:
        modes = (await setup.get("/mode")).json
        assert modes["mode"] == "ppd"
        assert {name for name, reason in modes["modes"].items() if reason is None} == {"pd", "ppd"}
        assert (await setup.post("/mode/pd")).status == 200
        assert (await setup.get("/mode")).json["mode"] == "pd"
        refused = await setup.post("/mode/replicated")
        assert refused.status == 409 and "prefill and decode" in refused.error["message"]
        unknown = await setup.post("/mode/auto")
        assert unknown.status == 404 and "ppd" in unknown.error["message"]
        assert (await setup.get("/mode")).json["mode"] == "pd"


async def test_the_mode_defaults_to_what_the_workers_are_for() -> None:
    for letters, mode in (("A", "aggregated"), ("AA", "replicated"), ("PD", "pd")):
        async with routing(letters) as setup:
            assert (await setup.get("/mode")).json["mode"] == mode


async def test_status() -> None:
    async with routing("PD", "ppd", ranks=2) as setup:
        await setup.chat("hello " * 400, max_tokens=3)
        status = await setup.status()
        assert status["mode"] == "ppd" and status["ready"] and status["reason"] is None
        assert status["balancer"] == "prefix_aware" and status["dialect"] == "tercet" and status["hybrid"] is False
        assert status["conversations"] == 1 and status["in_flight"] == 0
        prefill, decode = status["workers"]
        assert (prefill["url"], prefill["stages"]) == (setup.workers[0].url, ["prefill"])
        assert (decode["role"], decode["stages"], decode["models"]) == ("D", ["decode"], ["m"])
        assert [rank["name"] for rank in decode["ranks"]] == ["D0", "D1"]
        used = next(rank for rank in decode["ranks"] if rank["routed"])
        assert used["ready"] and used["prefix_blocks"] == 2400 // 256 and used["requests"] == 0
        assert {pair["pair"] for pair in status["pairs"] if pair["ready"]} == {"P0>D0", "P0>D1", "P1>D0", "P1>D1"}
        assert status["counts"]["ppd"]["requests"] == 1 and status["counts"]["ppd"]["split"] == 1


async def test_clearing_conversations_sends_the_next_turn_through_p() -> None:
    async with routing("PD", "ppd") as setup:
        first = await setup.complete([1] * 20, headers={"X-Session-Id": "s"}, max_tokens=3)
        assert (await setup.post("/conversations/clear")).json == {"cleared": 1}
        again = await setup.complete([1] * 30, headers={"X-Session-Id": "s"}, max_tokens=3)
        assert first.route == again.route == "P0>D0"
        assert (await setup.complete([1] * 40, headers={"X-Session-Id": "s"})).route == "D0"


async def test_cache_reset_reaches_every_worker_and_forgets_the_index() -> None:
    async with routing("PPD", "ppd") as setup:
        await setup.chat("hello " * 400, max_tokens=3)
        got = await setup.post("/cache/reset")
        assert got.status == 200 and len(got.json["workers"]) == 3
        assert [worker.resets for worker in setup.workers] == [1, 1, 1]
        status = await setup.status()
        assert status["conversations"] == 0
        assert all(rank["prefix_blocks"] == 0 for worker in status["workers"] for rank in worker["ranks"])
        setup.workers[1].reset_answer = {"success": False}  # as vLLM says that blocks are still in use
        got = await setup.post("/cache/reset")
        assert got.status == 502 and setup.workers[1].url in got.error["message"]
        await setup.workers[0].stop()
        got = await setup.post("/cache/reset")
        assert got.status == 502 and setup.workers[0].url in got.error["message"]


async def test_metrics_and_their_clearing() -> None:
    async with routing("PD", "pd") as setup:
        await setup.chat("hello", max_tokens=3)
        await setup.chat("hello", max_tokens=3, stream=True)
        assert await setup.metric("tercet:router_requests_total", mode="pd", status="200") == 2
        assert await setup.metric("tercet:router_routes_total", mode="pd", kind="split") == 2
        assert await setup.metric("tercet:router_time_to_first_byte_seconds_count", mode="pd") == 2
        assert await setup.metric("tercet:router_rank_ready") == 2
        assert await setup.metric("tercet:router_in_flight") == 0
        assert (await setup.post("/metrics/clear")).status == 200
        assert await setup.metric("tercet:router_requests_total") == 0
        assert (await setup.status())["counts"] == {}
        await setup.chat("hello", max_tokens=3)
        assert await setup.metric("tercet:router_requests_total", mode="pd", status="200") == 1


async def test_ready_says_what_is_missing() -> None:
    async with routing("PD", "pd", wait=False) as setup:
        setup.workers[0].ready = False
        assert (await setup.get("/health")).status == 200
        await until(lambda: setup.router.parts.fleet.ready(setup.workers[1].url))
        await until(lambda: setup.router.prober.problem(setup.workers[0].url))
        got = await setup.get("/ready")
        assert got.status == 503 and "prefill worker" in got.json["reason"]
        assert setup.workers[0].url in got.json["problems"]
        assert (await setup.chat("hi")).status == 503
        setup.workers[0].ready = True
        await setup.ready()
        urls = [worker.url for worker in setup.workers]
        assert (await setup.get("/ready")).json == {"ready": True, "mode": "pd", "workers": urls}


@pytest.mark.parametrize("path", ["/health", "/status", "/v1/models"])
async def test_head_is_answered_like_get(path: str) -> None:
    async with routing("A") as setup:
        got = await setup.send("HEAD", path)
        assert got.status == 200 and got.body == b""
