"""That the stand-in of vLLM is strict too."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.asking import BODY, running, without
from tests.conformance.vllm import ASKED, Fabric, VllmServer

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {**dict.fromkeys(ASKED), "do_remote_decode": True, "do_remote_prefill": False}
PREFILL = {**BODY, "max_tokens": 1, "kv_transfer_params": ASK}
PICTURE = {"type": "image_url", "image_url": {"url": "http://web/one.png"}}


def vllm(**knobs: Any) -> list[VllmServer]:
    fabric = Fabric()
    return [VllmServer(letter, fabric, **knobs) for letter in "EPD"]


@pytest.mark.parametrize(
    ("letter", "changes", "why"),
    [
        ("P", {"max_tokens": 2}, "of one token"),
        ("P", {"stream": True}, "whole"),
        ("P", {"stream_options": {"include_usage": True}}, "Stream options"),
        ("P", {"kv_transfer_params": without(ASK, "remote_host")}, "of one token"),
        ("P", {"kv_transfer_params": {**ASK, "unknown": 1}}, "of one token"),
        ("P", {"kv_transfer_params": {"unknown": 1}}, "kv_transfer_params"),
        ("D", {}, "for P"),
        ("D", {"kv_transfer_params": {**ASK, "do_remote_decode": False, "do_remote_prefill": True}}, "or none"),
        ("P", {"model": "other"}, "does not exist"),
    ],
)
async def test_a_prefill_that_is_none(letter: str, changes: dict[str, Any], why: str) -> None:
    async with running(*vllm()) as workers:
        status, answer = await workers.ask(letter, {**PREFILL, **changes})
        assert status in (400, 404) and why in answer["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "ticket", "why"),
    [
        ({"prompt": "a b d"}, {}, "of another prompt"),
        ({}, {"remote_request_id": "other"}, "of another prompt"),
        ({}, {"remote_block_ids": [[9]]}, "of another prompt"),
        ({"prompt_logprobs": 0}, {}, "nobody wrote to"),
        ({"echo": True, "logprobs": 0}, {}, "nobody wrote to"),
    ],
)
async def test_a_ticket_is_for_its_prompt_as_it_came(changes: dict[str, Any], ticket: dict[str, Any], why: str) -> None:
    async with running(*vllm()) as workers:
        _, answer = await workers.ask("P", PREFILL)
        body = {**BODY, **changes, "kv_transfer_params": {**answer["kv_transfer_params"], **ticket}}
        status, answer = await workers.ask("D", body)
        assert status == 400 and why in answer["error"]["message"]


async def test_a_ticket_serves_once() -> None:
    async with running(*vllm()) as workers:
        _, answer = await workers.ask("P", PREFILL)
        body = {**BODY, "kv_transfer_params": answer["kv_transfer_params"]}
        assert [(await workers.ask("D", body))[0] for _ in range(2)] == [200, 400]


@pytest.mark.parametrize(
    ("content", "more", "why"),
    [
        ([PICTURE, {"type": "text", "text": "what?"}], {}, "media only"),
        ([PICTURE], {"max_tokens": 1}, "no limit"),
        ([PICTURE], {"stream": True}, "media only"),
        ([{"type": "image_url", "image_url": {"url": "http://web/none.png"}}], {}, "Failed to load"),
    ],
)
async def test_an_encode_request_that_is_none(content: list[Any], more: dict[str, Any], why: str) -> None:
    async with running(*vllm()) as workers:
        body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
        status, answer = await workers.ask("E", body, CHAT)
        assert status == 400 and why in answer["error"]["message"]


@pytest.mark.parametrize(("takes", "why"), [(True, "no embedding"), (False, "--enable-mm-embeds")])
async def test_metadata_alone_is_no_picture(takes: bool, why: str) -> None:
    async with running(*vllm(takes_embeds=takes)) as workers:
        part = {"type": "image_embeds", "image_embeds": {"image_grid_thw": [[1, 2, 2]]}, "uuid": "nobody's"}
        body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
        status, answer = await workers.ask("P", body, CHAT)
        assert status == 400 and why in answer["error"]["message"]


async def test_a_draw_that_nobody_offered() -> None:
    engines = vllm()
    for engine in engines:
        engine.mooncake = True
    async with running(*engines) as workers:
        asked = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": "t"}
        assert (await workers.ask("P", {**BODY, "kv_transfer_params": {**asked, "remote_host": None}}))[0] == 400
        draw = {"do_remote_prefill": True, "do_remote_decode": False, "transfer_id": "t"}
        right = {**draw, "remote_engine_id": engines[1].engine_id, "remote_bootstrap_addr": engines[1].url}
        for ticket, status in ((right, 200), ({**right, "remote_engine_id": "other"}, 400), (draw, 400)):
            assert (await workers.ask("P", {**BODY, "max_tokens": 1, "kv_transfer_params": asked}))[0] == 200
            for expected in (status, 400):
                assert (await workers.ask("D", {**BODY, "kv_transfer_params": ticket}))[0] == expected
