"""That the stand-ins are as strict as they say: each request that the router must never send is refused, and noted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tercet.http.client import ClientError
from tests.conformance.asking import BODY, PATH, Workers, running, without
from tests.conformance.sglang import Rooms, SglangServer
from tests.conformance.trtllm import Held, TrtllmServer

# --- SGLang ---

MEETING = {"bootstrap_host": "127.0.0.1", "bootstrap_port": 8998, "bootstrap_room": 42}


def sglang(ranks: int = 1, patience_s: float = 300.0) -> list[SglangServer]:
    rooms = Rooms()
    servers = [SglangServer("P", rooms, ranks=ranks), SglangServer("D", rooms, ranks=ranks)]
    for server in servers:
        server.patience_s = patience_s
    return servers


@pytest.mark.parametrize("letter", ["P", "D"])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bootstrap_room": None}, "without bootstrap room"),
        ({"bootstrap_room": 2**63}, "bootstrap_room"),
        ({"bootstrap_room": -1}, "bootstrap_room"),
        ({"bootstrap_room": 0}, "bootstrap_room"),
        ({"bootstrap_room": "42"}, "bootstrap_room"),
        ({"bootstrap_room": 4.0}, "bootstrap_room"),
        ({"bootstrap_room": True}, "bootstrap_room"),
        ({"bootstrap_room": [42]}, "bootstrap_room"),
        ({"n": 2}, "share room 42"),
        ({"bootstrap_host": None}, "bootstrap_host"),
        ({"bootstrap_host": ["127.0.0.1"]}, "bootstrap_host"),
        ({"bootstrap_host": ""}, "bootstrap_host"),
        ({"bootstrap_port": None}, "bootstrap_port"),
        ({"bootstrap_port": "8998"}, "bootstrap_port"),
        ({"bootstrap_port": 0}, "bootstrap_port"),
        ({"bootstrap_port": 70000}, "bootstrap_port"),
        ({"bootstrap_pair_key": "x"}, "unknown fields"),
        ({"data_parallel_rank": 0}, "deprecated"),
        ({"routed_dp_rank": 1}, "out of range"),
        ({"routed_dp_rank": "0"}, "out of range"),
    ],
)
async def test_sglang_refuses_what_brings_no_legs_together(letter: str, changes: dict[str, Any], why: str) -> None:
    async with running(*sglang()) as workers:
        status, answer = await workers.ask(letter, {**BODY, **MEETING, **changes})
        assert status == 400 and why in answer["message"] and answer["object"] == "error"
        assert workers.faults == [answer["message"]]


@pytest.mark.parametrize("missing", MEETING)
async def test_sglang_needs_every_field(missing: str) -> None:
    async with running(*sglang()) as workers:
        for letter in "PD":
            status, answer = await workers.ask(letter, without({**BODY, **MEETING}, missing))
            assert status == 400 and missing.removeprefix("bootstrap_") in answer["message"]


@pytest.mark.parametrize(
    ("letter", "changes", "headers", "why"),
    [
        ("P", {}, {}, "out of range"),
        ("P", {"routed_dp_rank": 2}, {}, "out of range"),
        ("P", {"routed_dp_rank": -1}, {}, "out of range"),
        ("D", {"routed_dp_rank": 1}, {"X_Data_Parallel_Rank": "0"}, "overrides"),
        ("D", {}, {"X_Data_Parallel_Rank": "0"}, "overrides"),
        ("P", {"routed_dp_rank": 0, "disagg_prefill_dp_rank": 0}, {}, "at a prefill worker"),
        ("D", {"routed_dp_rank": 0, "disagg_prefill_dp_rank": "0"}, {}, "disagg_prefill_dp_rank"),
    ],
)
async def test_sglang_refuses_ranks_that_are_none(
    letter: str, changes: dict[str, Any], headers: dict[str, str], why: str
) -> None:
    async with running(*sglang(ranks=2)) as workers:
        status, answer = await workers.ask(letter, {**BODY, **MEETING, **changes}, **headers)
        assert status == 400 and why in answer["message"]


async def test_sglang_whole_workers_have_nobody_to_meet() -> None:
    async with running(SglangServer("A", Rooms())) as workers:
        assert (await workers.ask("A", {**BODY, **MEETING}))[0] == 400
        assert (await workers.ask("A", BODY))[0] == 200


async def test_sglang_both_legs_meet_and_a_room_serves_once() -> None:
    async with running(*sglang()) as workers:
        body = {**BODY, **MEETING}
        (p, _), (d, answer) = await asyncio.gather(workers.ask("P", body), workers.ask("D", body))
        assert (p, d, answer["choices"][0]["text"]) == (200, 200, "w3 w4 w5 w6")
        for letter, why in (("P", "used twice"), ("D", "read twice")):
            status, answer = await workers.ask(letter, body)
            assert status == 400 and why in answer["message"]


@pytest.mark.parametrize(
    ("on_p", "on_d"),
    [
        (None, {}),
        ({}, None),
        ({"bootstrap_room": 43}, {}),
        ({}, {"bootstrap_port": 8999}),
        ({"routed_dp_rank": 1}, {"routed_dp_rank": 0, "disagg_prefill_dp_rank": 0}),
        ({"routed_dp_rank": 1}, {"routed_dp_rank": 0}),
    ],
)
async def test_sglang_who_is_alone_in_a_room_waits_and_fails(on_p: Any, on_d: Any) -> None:
    ranked = any("routed_dp_rank" in (leg or {}) for leg in (on_p, on_d))
    async with running(*sglang(2 if ranked else 1, patience_s=0.1)) as workers:
        legs = [("P", on_p), ("D", on_d)]
        asked = [workers.ask(letter, {**BODY, **MEETING, **leg}) for letter, leg in legs if leg is not None]
        for status, answer in await asyncio.gather(*asked):
            assert status == 500 and "timed out" in answer["message"]


async def test_sglang_sees_that_the_legs_differ() -> None:
    async with running(*sglang(patience_s=0.1)) as workers:
        body = {**BODY, **MEETING}
        _, (status, answer) = await asyncio.gather(workers.ask("P", body), workers.ask("D", {**body, "max_tokens": 5}))
        assert status == 400 and "different bodies" in answer["message"]


# --- TensorRT-LLM ---

UNIQUE = 2**42 + 7
CONTEXT = {"request_type": "context_only", "disagg_request_id": UNIQUE}


def trtllm(old: bool = False) -> list[TrtllmServer]:
    held = Held()
    return [TrtllmServer("P", held, old=old), TrtllmServer("D", held, old=old)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kv_transfer_params": {}}, "Extra inputs"),
        ({"bootstrap_room": 1}, "Extra inputs"),
        ({"stream_options": {"include_usage": True}}, "Stream options"),
        ({"stream": True}, "not streamed"),
        ({"n": 2}, "one choice"),
        ({"disaggregated_params": {**CONTEXT, "unknown": 1}}, "Extra inputs"),
        ({"disaggregated_params": {**CONTEXT, "ctx_request_id": 5}}, "knows nothing"),
        ({"disaggregated_params": {**CONTEXT, "request_type": "prefill"}}, "request_type"),
        ({"disaggregated_params": {**CONTEXT, "request_type": "context_and_generation"}}, "request_type"),
        ({"disaggregated_params": without(CONTEXT, "request_type")}, "without request_type"),
        ({"disaggregated_params": without(CONTEXT, "disagg_request_id")}, "without disagg_request_id"),
        ({"disaggregated_params": {**CONTEXT, "disagg_request_id": 7}}, "disagg_request_id=7"),
        ({"disaggregated_params": {**CONTEXT, "disagg_request_id": 2**63}}, "disagg_request_id"),
        ({"disaggregated_params": {**CONTEXT, "disagg_request_id": str(UNIQUE)}}, "disagg_request_id"),
    ],
)
async def test_trtllm_refuses_a_context_request(changes: dict[str, Any], why: str) -> None:
    async with running(*trtllm()) as workers:
        status, answer = await workers.ask("P", {**BODY, "disaggregated_params": CONTEXT, **changes})
        assert status == 400 and why in answer["message"] and workers.faults == [answer["message"]]


async def prefilled(workers: Workers, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    status, answer = await workers.ask("P", {**body, "disaggregated_params": CONTEXT}, path)
    assert status == 200, answer
    said = answer["choices"][0]["disaggregated_params"]
    more = {"schedule_style": 0, "ctx_usage": answer["usage"]} if "ctx_usage" in said else {}
    return {**said, "request_type": "generation_only", **more}, answer["prompt_token_ids"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"request_type": "context_only"}, "at a generation server"),
        ({"ctx_request_id": None}, "without ctx_request_id"),
        ({"ctx_request_id": str(UNIQUE)}, "ctx_request_id"),
        ({"ctx_request_id": UNIQUE + 1}, "no such context"),
        ({"disagg_request_id": UNIQUE + 1}, "state was changed"),
        ({"encoded_opaque_state": None}, "without encoded_opaque_state"),
        ({"encoded_opaque_state": "not base64!"}, "encoded_opaque_state"),
        ({"encoded_opaque_state": "AAAA"}, "state was changed"),
        ({"first_gen_tokens": None}, "without first_gen_tokens"),
        ({"first_gen_tokens": [1]}, "state was changed"),
        ({"first_gen_tokens": "7"}, "first_gen_tokens"),
        ({"ctx_dp_rank": 5}, "state was changed"),
        ({"ctx_usage": None}, "ctx_usage"),
        ({"ctx_usage": {"prompt_tokens": 9}}, "ctx_usage"),
        ({"schedule_style": "context_first"}, "schedule_style"),
    ],
)
async def test_trtllm_refuses_a_state_that_is_not_the_contexts(changes: dict[str, Any], why: str) -> None:
    async with running(*trtllm()) as workers:
        params, ids = await prefilled(workers, PATH, BODY)
        status, answer = await workers.ask("D", {**BODY, "prompt": ids, "disaggregated_params": {**params, **changes}})
        assert status in (400, 500) and why in answer["message"]
        again = {**BODY, "prompt": ids, "disaggregated_params": params}
        assert (await workers.ask("D", again))[0] == 200, "what was refused moved nothing"
        status, answer = await workers.ask("D", again)
        assert status == 500 and "no such context" in answer["message"], "a state is fetched once"


@pytest.mark.parametrize(
    ("path", "changes", "why"),
    [
        (PATH, {"prompt": "a b c"}, "prompt_token_ids"),
        (PATH, {"prompt": [1, 2, 3]}, "prompt_token_ids"),
        (PATH, {"echo": True}, "neither the text"),
        (PATH, {"logprobs": 1}, "first token"),
        ("/v1/chat/completions", {"prompt_token_ids": None}, "prompt_token_ids"),
        ("/v1/chat/completions", {"prompt": "x"}, "Extra inputs"),
    ],
)
async def test_trtllm_generates_from_the_contexts_tokens_only(path: str, changes: dict[str, Any], why: str) -> None:
    chat = "chat" in path
    body = {**without(BODY, "prompt"), "messages": [{"role": "user", "content": "a b c"}]} if chat else BODY
    async with running(*trtllm()) as workers:
        params, ids = await prefilled(workers, path, body)
        body = {**body, "prompt_token_ids" if chat else "prompt": ids, "disaggregated_params": params, **changes}
        status, answer = await workers.ask("D", body, path)
        assert status == 400 and why in answer["message"]


async def test_trtllm_legs_go_to_their_own_servers_and_in_their_order() -> None:
    async with running(*trtllm()) as workers:
        early = {**CONTEXT, "request_type": "generation_only", "ctx_request_id": UNIQUE, "first_gen_tokens": [3]}
        early["encoded_opaque_state"] = "AAAA"
        status, answer = await workers.ask("D", {**BODY, "prompt": [100], "disaggregated_params": early})
        assert status == 500 and "no such context" in answer["message"], "generation before its context"
        params, ids = await prefilled(workers, PATH, BODY)
        status, answer = await workers.ask("P", {**BODY, "prompt": ids, "disaggregated_params": params})
        assert status == 400 and "at a context server" in answer["message"]
        status, answer = await workers.ask("P", {**BODY, "disaggregated_params": CONTEXT})
        assert status == 400 and "used twice" in answer["message"]


async def test_trtllm_an_old_server_knows_no_newer_field() -> None:
    async with running(*trtllm(old=True)) as workers:
        params, ids = await prefilled(workers, PATH, BODY)
        for name in ("ctx_usage", "schedule_style"):
            body = {**BODY, "prompt": ids, "disaggregated_params": {**params, name: None}}
            status, answer = await workers.ask("D", body)
            assert status == 400 and name in answer["message"]


# --- failures on demand ---


@pytest.mark.parametrize("stream", [False, True])
async def test_a_worker_fails_as_it_is_told(stream: bool) -> None:
    engine = TrtllmServer("A", Held())
    async with running(engine) as workers:
        engine.refuse = 503
        assert (await workers.ask("A", BODY))[0] == 503
        engine.refuse, engine.die = 0, True
        with pytest.raises(ClientError):
            await workers.ask("A", BODY)
        engine.die, engine.cut_after = False, 2
        if stream:
            with pytest.raises(ClientError):
                await workers.ask("A", {**BODY, "stream": True})
            engine.cut_after, engine.error_after = None, 2
            status, data = await workers.ask("A", {**BODY, "stream": True})
            assert status == 200 and b'data: {"error"' in data and b"w5" not in data


@pytest.mark.parametrize("make", [sglang, trtllm])
async def test_blocks_that_are_lost_on_their_way_fail_the_request(make: Any) -> None:
    engines = make()
    for engine in engines:
        engine.loses_blocks = True
    async with running(*engines) as workers:
        if make is sglang:
            body = {**BODY, **MEETING}
            answers = await asyncio.gather(workers.ask("P", body), workers.ask("D", body))
            assert [status for status, _ in answers] == [500, 500]
        else:
            params, ids = await prefilled(workers, PATH, BODY)
            status, _ = await workers.ask("D", {**BODY, "prompt": ids, "disaggregated_params": params})
            assert status == 500
        assert not workers.faults
