"""The router before SGLang's stand-in."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any
from urllib.parse import quote

import pytest

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.router.config import RouterConfig
from tests.conformance.sglang import Rooms, SglangServer
from tests.integration.dialects.harness import Engines, routing, until

EVIL: dict[str, Any] = {
    "bootstrap_host": "10.0.0.1",
    "bootstrap_port": 1,
    "bootstrap_room": 7,
    "bootstrap_pair_key": "x",
    "routed_dp_rank": 3,
    "disagg_prefill_dp_rank": 3,
    "data_parallel_rank": 3,
    "disaggregated_params": {"request_type": "generation_only"},
}


def pair(ranks: int = 1) -> list[SglangServer]:
    rooms = Rooms()
    return [SglangServer("P", rooms, ranks=ranks), SglangServer("D", rooms, ranks=ranks)]


def streamed(stream: bool) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if stream else {}


@pytest.mark.parametrize("stream", [False, True])
async def test_right_answers(stream: bool) -> None:
    async with routing("sglang", pair(), "pd") as setup:
        setup.engine("P").cached = 2
        for i in range(3):
            got = await setup.chat("hello there " * (i + 1), max_tokens=4, **streamed(stream))
            words = 1 + 2 * (i + 1)
            assert got.status == 200 and got.route == "P0>D0", got.body
            assert (got.streamed if stream else got.text) == " ".join(f"w{words + k}" for k in range(4))
            usage = json.loads(got.events[-2])["usage"] if stream else got.json["usage"]
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (words, 4)
            assert usage["prompt_tokens_details"] == {"cached_tokens": 2}, "what P had, for D computed nothing"
        got = await setup.complete("a b c", max_tokens=1, **streamed(stream))
        assert (got.streamed if stream else got.text) == "w3"
        await setup.idle()
        prefill = setup.engine("P")
        assert isinstance(prefill, SglangServer) and len(set(prefill.rooms.used)) == len(prefill.rooms.used)


@pytest.mark.parametrize("stream", [False, True])
async def test_several_choices_are_those_of_a_whole_worker_in_a_hybrid_fleet(stream: bool) -> None:
    engines = [*pair(), SglangServer("A", Rooms())]
    async with routing("sglang", engines, "pd", hybrid=True) as setup:
        for ask in (setup.complete, setup.chat):
            got = await ask("a b", n=3, max_tokens=2, **streamed(stream))
            assert got.status == 200 and got.route == "A0", got.body
        await setup.idle()


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_go_through_both_and_several_choices_are_refused_before(stream: bool) -> None:
    async with routing("sglang", pair(), "pd") as setup:
        got = await setup.complete(["a", "b"], max_tokens=2)
        assert got.status == 200 and got.route == "P0>D0"
        asked = [len(engine.inferences) for engine in setup.engines]
        for got in (
            await setup.complete("a b", n=3, max_tokens=2, **streamed(stream)),
            await setup.chat("a b", n=2, max_tokens=2, **streamed(stream)),
        ):
            assert (got.status, got.json["error"]["code"], got.json["error"]["param"]) == (400, "one_choice", "n")
        assert asked == [len(engine.inferences) for engine in setup.engines], "no engine is asked what it can't answer"
        await setup.idle()
    async with routing("sglang", [SglangServer("A", Rooms())], "replicated") as setup:
        assert len((await setup.complete("a b", n=3, max_tokens=2)).json["choices"]) == 3


async def test_what_clients_may_not_set_is_stripped() -> None:
    async with routing("sglang", pair(), "pd") as setup:
        headers = {"X-Override-Bootstrap-Host": "10.0.0.1", "X-Data-Parallel-Rank": "3"}
        got = await setup.chat("hi", headers=headers, max_tokens=2, custom={"a": 1}, **EVIL)
        assert got.status == 200, got.body
        await setup.idle()
        for engine in setup.engines:
            ((_, body, sent),) = engine.inferences
            assert body["custom"] == {"a": 1} and body["bootstrap_host"] == "127.0.0.1" and body["bootstrap_room"] != 7
            assert not {"routed_dp_rank", "disagg_prefill_dp_rank", "disaggregated_params"} & body.keys()
            assert "10.0.0.1" not in json.dumps([body, sent]) and "x-data-parallel-rank" not in sent


async def test_ranks_meet_by_name() -> None:
    engines = pair(ranks=2)
    async with routing("sglang", engines, "pd", data_parallel_size=2, balancer="random") as setup:
        routes = {(await setup.chat(f"hello {i}", max_tokens=2)).route for i in range(30)}
        assert routes == {"P0>D0", "P0>D1", "P1>D0", "P1>D1"}
        await setup.idle()


async def test_bootstrap_ports_of_each_prefill_worker() -> None:
    rooms = Rooms()
    engines = [SglangServer("P", rooms, bootstrap_port=9001), SglangServer("D", rooms)]
    async with routing("sglang", engines, "pd", fragments={"P": "#bootstrap=9001"}) as setup:
        assert (await setup.chat("hi")).status == 200
        assert setup.engine("D").bodies[0]["bootstrap_port"] == 9001
        await setup.idle()


@pytest.mark.parametrize("mode", ["aggregated", "replicated"])
@pytest.mark.parametrize("ranks", [1, 2])
async def test_whole_workers(mode: str, ranks: int) -> None:
    engines = [SglangServer("A", Rooms(), ranks=ranks)]
    async with routing("sglang", engines, mode, data_parallel_size=ranks) as setup:
        got = await setup.chat("hi", max_tokens=2, stream=True, **EVIL)
        assert got.streamed == "w2 w3"
        await setup.idle()


# --- failures ---


async def failing(setup: Engines, stream: bool) -> Any:
    async with asyncio.timeout(30):
        return await setup.complete("a b c", max_tokens=4, **streamed(stream))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["refuse", "die", "gone"])
@pytest.mark.parametrize("broken", ["P", "D"])
async def test_one_leg_fails_and_the_other_is_cancelled_at_once(broken: str, how: str, stream: bool) -> None:
    async with routing("sglang", pair(), "pd") as setup:
        bad, good = setup.engine(broken), setup.engine("D" if broken == "P" else "P")
        if how == "gone":
            setup.router.prober.suspect = lambda url: None  # type: ignore[method-assign]
            await bad.stop()
        else:
            bad.refuse, bad.die = (503, False) if how == "refuse" else (0, True)
        before = monotonic()
        got = await failing(setup, stream)
        assert got.status in (502, 503) and got.error["message"]
        await until(lambda: not good.running, timeout_s=20)
        assert monotonic() - before < 30, "not the 300 s that the engine waits"
        # A lone leg hangs until its client leaves; it may have been stopped before it was even begun.
        assert good.cancelled == len(good.inferences)
        if how != "gone":
            assert good.cancelled == 1
        await setup.idle()


@pytest.mark.parametrize("stream", [False, True])
async def test_blocks_that_are_lost_on_their_way_are_a_clean_error(stream: bool) -> None:
    async with routing("sglang", pair(), "pd") as setup:
        prefill = setup.engine("P")
        assert isinstance(prefill, SglangServer)
        prefill.loses_blocks = True
        got = await failing(setup, stream)
        assert got.status == 500 and "transfer failed" in got.error["message"]
        prefill.loses_blocks = False
        assert (await failing(setup, stream)).status == 200
        await setup.idle()


async def test_legs_that_never_meet_time_out_as_the_engine_does_and_the_pair_serves_nobody() -> None:
    rooms = Rooms()
    engines = [SglangServer("P", rooms, bootstrap_port=9001), SglangServer("D", rooms)]
    for engine in engines:
        engine.patience_s = 0.2
    async with routing("sglang", engines, "pd", wait=False) as setup:  # nobody said #bootstrap=9001
        fleet = setup.router.parts.fleet
        await until(lambda: all(map(fleet.ready, fleet.ranks)))
        await until(lambda: any(len(engine.seen) > 1 for engine in engines))
        got = await failing(setup, False)
        assert got.status == 503 and "pair of prefill and decode worker" in got.error["message"]


@pytest.mark.parametrize("broken", ["P", "D"])
async def test_a_4xx_is_the_clients_and_ends_the_other_leg(broken: str) -> None:
    async with routing("sglang", pair(), "pd", max_retries=2) as setup:
        bad, good = setup.engine(broken), setup.engine("D" if broken == "P" else "P")
        bad.refuse = 400
        got = await failing(setup, True)
        assert got.status == 400 and got.error["message"] == "refused on demand" and got.error["code"] == "400"
        await until(lambda: good.cancelled == 1)
        assert len(bad.inferences) == 1, "never tried again"
        await setup.idle()


async def test_d_dies_mid_stream() -> None:
    async with routing("sglang", pair(), "pd") as setup:
        setup.engine("D").cut_after = 2
        got = await failing(setup, True)
        assert got.status == 200 and "[DONE]" not in got.events
        assert json.loads(got.events[-1])["error"]["code"] == "worker_unreachable"
        await setup.idle()


async def test_an_engine_that_fails_in_its_stream_is_counted() -> None:
    async with routing("sglang", pair(), "pd") as setup:
        decode = setup.engine("D")
        decode.error_after, decode.token_gate = 2, asyncio.Event()
        asked = asyncio.create_task(failing(setup, True))
        await setup.answering()
        decode.token_gate.set()
        got = await asked
        assert got.status == 200 and "the engine died" in got.body.decode()
        await until(lambda: not setup.engine("D").running)
        assert await setup.metric("tercet:router_stream_failures_total") == 1


async def test_an_engine_that_fails_in_its_streams_first_event_has_not_answered() -> None:
    async with routing("sglang", pair(), "pd") as setup:
        setup.engine("D").error_after = 0
        got = await failing(setup, True)
        assert got.status == 500 and got.error["message"] == "the engine died"
        await setup.idle()


async def test_the_client_leaving_cancels_both() -> None:
    async with routing("sglang", pair(), "pd") as setup:
        for engine in setup.engines:
            engine.gate = asyncio.Event()
        request = asyncio.create_task(setup.chat("hi", stream=True))
        await until(lambda: all(engine.running for engine in setup.engines))
        request.cancel()
        await until(lambda: all(engine.cancelled == 1 for engine in setup.engines))
        await setup.idle()


async def test_the_client_leaving_mid_stream_cancels_d() -> None:
    async with routing("sglang", pair(), "pd") as setup:
        decode = setup.engine("D")
        decode.token_gate = asyncio.Event()
        request = asyncio.create_task(setup.chat("hi", stream=True))
        await until(lambda: decode.running)
        await asyncio.sleep(0.05)
        request.cancel()
        await until(lambda: decode.cancelled == 1)
        await setup.idle()


async def test_ppd_is_refused_for_d_computes_no_prompt() -> None:
    async with routing("sglang", pair(), "pd") as setup:
        got = await setup.post("/mode/ppd")
        assert got.status == 409 and got.error["code"] == "not_in_this_dialect"
        assert "can't" in (await setup.get("/mode")).json["modes"]["ppd"]
    urls: dict[str, Any] = {"prefill": ("http://p:1",), "decode": ("http://d:1",), "dialect": "sglang"}
    with pytest.raises(UsageError, match="ppd"):
        RouterConfig(mode=Mode.PPD, **urls)
    with pytest.raises(UsageError, match="fallback"):
        RouterConfig(mode=Mode.PD, prefill_fallback="decode", **urls)


async def test_p_failing_after_d_began_to_answer_is_nothing_to_the_client() -> None:
    async with routing("sglang", pair(), "pd") as setup:
        prefill, decode = setup.engine("P"), setup.engine("D")
        assert isinstance(prefill, SglangServer) and isinstance(decode, SglangServer)
        decode.answering = 0
        prefill.late, decode.token_gate = asyncio.Event(), asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c", max_tokens=4, stream=True))
        await until(lambda: decode.answering)
        await asyncio.sleep(0.05)  # its first token is on its way
        prefill.late.set()
        await until(lambda: not prefill.running)
        await asyncio.sleep(0.05)
        decode.token_gate.set()
        assert (await request).streamed == "w3 w4 w5 w6"
        await setup.idle()


async def test_a_worker_that_joins_late_brings_its_bootstrap_port() -> None:
    rooms = Rooms()
    first, late = SglangServer("P", rooms), SglangServer("P", rooms, bootstrap_port=9002)
    async with routing("sglang", [first, SglangServer("D", rooms), late], "pd", wait=False) as setup:
        assert (await setup.send("DELETE", "/workers/P1")).status == 202  # the harness named it, without its port
        await until(lambda: late.url not in setup.router.parts.fleet.workers)
        got = await setup.post("/workers", {"url": f"{late.url}#bootstrap=9002", "role": "prefill"})
        assert got.status == 201, got.body
        await setup.ready()
        await setup.send("DELETE", f"/workers/{quote(first.url, safe='')}")
        late.seen.clear()
        got = await setup.chat("hello there", max_tokens=4)
        assert got.status == 200, got.body
        assert late.inferences[-1][1]["bootstrap_port"] == 9002
        await setup.send("DELETE", f"/workers/{quote(late.url, safe='')}")
        await until(lambda: not setup.router.parts.ports)
