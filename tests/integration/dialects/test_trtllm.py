"""The router before the stand-in of TensorRT-LLM."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

import pytest

from tests.conformance.trtllm import Held, TrtllmServer
from tests.integration.dialects.harness import Engines, routing, until


def pair(**knobs: Any) -> list[TrtllmServer]:
    held = Held()
    return [TrtllmServer("P", held, **knobs), TrtllmServer("D", held, **knobs)]


def held(setup: Engines) -> dict[int, Any]:
    prefill = setup.engine("P")
    assert isinstance(prefill, TrtllmServer)
    return prefill.held.states


def streamed(stream: bool) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if stream else {}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_right_answers(stream: bool, old: bool) -> None:
    async with routing("trtllm", pair(old=old), "pd") as setup:
        setup.engine("P").cached = 2
        for i in range(3):
            got = await setup.chat("hello there " * (i + 1), max_tokens=4, **streamed(stream))
            words = 1 + 2 * (i + 1)
            assert got.status == 200 and got.route == "P0>D0", got.body
            assert (got.streamed if stream else got.text) == " ".join(f"w{words + k}" for k in range(4))
            usage = json.loads(got.events[-2])["usage"] if stream else got.json["usage"]
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (words, 4)
            # An old generation server isn't told what the context had cached: the router says it.
            assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
        got = await setup.complete("a b c", max_tokens=1, **streamed(stream))
        assert (got.streamed if stream else got.text) == "w3"
        got = await setup.complete([7, 8], max_tokens=2, **streamed(stream))
        assert (got.streamed if stream else got.text) == "w2 w3"
        await setup.idle()
        assert not held(setup)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_context_that_stopped_has_said_it_all(stream: bool) -> None:
    async with routing("trtllm", pair(), "pd") as setup:
        setup.engine("P").finish = "stop"
        got = await setup.chat("hi there", max_tokens=9, **streamed(stream))
        assert (got.streamed if stream else got.text) == "w3" and not setup.engine("D").inferences
        assert "disaggregated_params" not in got.body.decode() and "prompt_token_ids" not in got.body.decode()
        assert await setup.metric("tercet:router_early_ends_total") == 1
        await setup.idle()


async def test_several_choices_are_the_generation_servers_alone() -> None:
    async with routing("trtllm", pair(), "pd") as setup:
        got = await setup.complete("a b", n=3, max_tokens=2)
        assert len(got.json["choices"]) == 3 and got.route == "D0" and not setup.engine("P").inferences
        await setup.idle()


async def test_what_clients_may_not_set_is_stripped() -> None:
    evil: dict[str, Any] = {
        "disaggregated_params": {"request_type": "generation_only", "ctx_info_endpoint": "tcp://10.0.0.1:1"},
        "bootstrap_host": "10.0.0.1",
        "routed_dp_rank": 1,
        "kv_transfer_params": {"remote_host": "10.0.0.1"},
    }
    async with routing("trtllm", pair(), "pd") as setup:
        got = await setup.chat("hi", max_tokens=2, headers={"X-Data-Parallel-Rank": "3"}, **evil)
        assert got.status == 200, got.body
        assert "10.0.0.1" not in json.dumps([engine.inferences for engine in setup.engines])
        await setup.idle()
    async with routing("trtllm", [TrtllmServer("A", Held())], "aggregated") as setup:
        assert (await setup.chat("hi", max_tokens=2, **evil)).text == "w2 w3"
        await setup.idle()


async def test_the_context_says_which_rank_has_the_blocks() -> None:
    async with routing("trtllm", pair(rank=3), "pd") as setup:
        assert (await setup.chat("hi")).status == 200
        assert setup.engine("D").bodies[0]["disaggregated_params"]["ctx_dp_rank"] == 3
        assert "x-data-parallel-rank" not in setup.engine("P").inferences[0][2]
        await setup.idle()


async def test_ppd_sends_later_turns_straight_to_the_generation_server() -> None:
    async with routing("trtllm", pair(), "ppd") as setup:
        first = await setup.chat("hello " * 50, max_tokens=5)
        second = await setup.chat("hello " * 50, first.text, "again", max_tokens=5, stream=True)
        assert (first.route, second.route) == ("P0>D0", "D0") and second.streamed.startswith("w59 ")
        await setup.idle()


# --- failures ---


async def failing(setup: Engines, stream: bool) -> Any:
    async with asyncio.timeout(30):
        return await setup.complete("a b c", max_tokens=4, **streamed(stream))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["refuse", "die"])
@pytest.mark.parametrize("broken", ["P", "D"])
async def test_a_leg_that_fails_is_a_clean_error(broken: str, how: str, stream: bool) -> None:
    async with routing("trtllm", pair(), "pd") as setup:
        bad = setup.engine(broken)
        bad.refuse, bad.die = (503, False) if how == "refuse" else (0, True)
        got = await failing(setup, stream)
        assert got.status in (502, 503) and got.error["message"]
        assert bool(setup.engine("D").inferences) == (broken == "D")
        await setup.idle()


async def test_a_state_that_is_gone_is_an_error_not_an_answer() -> None:
    async with routing("trtllm", pair(), "pd") as setup:
        decode = setup.engine("D")
        decode.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c"))
        await until(lambda: held(setup))
        held(setup).clear()
        decode.gate.set()
        got = await request
        assert got.status == 500 and got.error["message"] == "no such context request"


@pytest.mark.parametrize("stream", [False, True])
async def test_blocks_that_are_lost_on_their_way_are_a_clean_error(stream: bool) -> None:
    async with routing("trtllm", pair(), "pd") as setup:
        decode = setup.engine("D")
        assert isinstance(decode, TrtllmServer)
        decode.loses_blocks = True
        got = await failing(setup, stream)
        assert got.status == 500 and "transfer failed" in got.error["message"]
        decode.loses_blocks = False
        assert (await failing(setup, stream)).status == 200
        await setup.idle()


@pytest.mark.parametrize("where", ["P", "D"])
async def test_a_dead_leg_of_a_chat_is_an_error_at_once(where: str) -> None:
    async with routing("trtllm", pair(), "pd") as setup:
        setup.engine(where).die = True
        before = monotonic()
        got = await setup.chat("hi there", max_tokens=4, stream=True)
        assert got.status == 502 and monotonic() - before < 20
        await setup.idle()


async def test_d_dies_mid_stream() -> None:
    async with routing("trtllm", pair(), "pd") as setup:
        setup.engine("D").cut_after = 2
        got = await failing(setup, True)
        assert json.loads(got.events[-1])["error"]["code"] == "worker_unreachable"
        await setup.idle()


@pytest.mark.parametrize("where", ["P", "D"])
async def test_the_client_leaving_cancels_the_leg_under_way(where: str) -> None:
    async with routing("trtllm", pair(), "pd") as setup:
        engine = setup.engine(where)
        engine.gate = asyncio.Event()
        request = asyncio.create_task(setup.chat("hi", stream=True))
        await until(lambda: engine.running)
        request.cancel()
        await until(lambda: engine.cancelled == 1)
        await setup.idle()
