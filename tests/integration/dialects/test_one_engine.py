"""What the client sees of two legs is what one engine would have said: token by token, with logprobs and usage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.conformance.engine import Engine
from tests.conformance.sglang import Rooms, SglangServer
from tests.conformance.trtllm import Held, TrtllmServer
from tests.conformance.vllm import Fabric, VllmServer
from tests.integration.dialects.harness import Engines, routing
from tests.unit.router.harness import Got

Make = Callable[[str], Sequence[Engine]]
CACHED = 2


def vllm(letters: str) -> list[VllmServer]:
    fabric = Fabric()
    return [VllmServer(letter, fabric) for letter in letters]


def sglang(letters: str) -> list[SglangServer]:
    rooms = Rooms()
    return [SglangServer(letter, rooms) for letter in letters]


def trtllm(letters: str) -> list[TrtllmServer]:
    held = Held()
    return [TrtllmServer(letter, held) for letter in letters]


DIALECTS: dict[str, Make] = {"vllm": vllm, "sglang": sglang, "trtllm": trtllm}
CHAT: list[dict[str, Any]] = [{}, {"logprobs": True}, {"max_tokens": 1, "logprobs": True}]
COMPLETIONS: list[dict[str, Any]] = [
    {},
    {"logprobs": 1},
    {"echo": True},
    {"echo": True, "logprobs": 1},
    {"max_tokens": 1, "logprobs": 1},
    {"n": 2},
]
OF_THE_PROMPT: dict[str, list[dict[str, Any]]] = {
    "vllm": [{"echo": True, "logprobs": 0}, {"prompt_logprobs": 1}],
    "trtllm": [{"echo": True}, {"return_context_logits": True}],
}


def merged(got: Got, chat: bool) -> list[Any]:
    """Return what an answer says of each choice, and its usage: the same for a stream and for a whole answer."""
    assert got.status == 200, got.body
    if not got.body.startswith(b"data:"):
        chunks = [got.json]
    else:
        assert got.events[-1] == "[DONE]"
        chunks = [json.loads(data) for data in got.events[:-1]]
    said: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        one = said.setdefault(choice["index"], {"text": "", "logprobs": [], "finish": None, "role": None})
        part = choice.get("message") or choice.get("delta") or {}
        one["text"] += part.get("content", "") if chat else choice["text"]
        one["role"] = one["role"] or part.get("role")
        logprobs = choice.get("logprobs") or {}
        if chat:
            one["logprobs"] += [(token["token"], token["logprob"]) for token in logprobs.get("content", [])]
        elif logprobs:
            top = [next(iter(tops.values())) for tops in logprobs["top_logprobs"]]
            one["logprobs"] += zip(logprobs["tokens"], logprobs["token_logprobs"], top, strict=True)
        one["finish"] = choice["finish_reason"] or one["finish"]
    return [said, chunks[-1]["usage"]]


async def answers(setup: Engines, stream: bool, dialect: str) -> list[Any]:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    result = []
    for extra in CHAT:
        got = await setup.chat("hello there", **{"max_tokens": 4, **options, **extra})
        result.append(merged(got, True))
    for extra in COMPLETIONS:
        if (stream or dialect == "sglang") and "n" in extra:
            continue  # the stand-ins stream one choice, and SGLang's hand on but one
        got = await setup.complete("a b c", **{"max_tokens": 4, **options, **extra})
        result.append(merged(got, False))
    return result


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("finish", ["length", "stop"])
async def test_two_legs_say_what_one_engine_says(dialect: str, stream: bool, finish: str) -> None:
    said = []
    for letters, mode in (("A", "aggregated"), ("PD", "pd")):
        engines = DIALECTS[dialect](letters)
        async with routing(dialect, engines, mode) as setup:
            for engine in engines:
                engine.cached, engine.finish = CACHED, finish
            whole = await answers(setup, stream, dialect) if finish == "length" else await first_is_last(setup, stream)
            said.append(whole)
            await setup.idle()
    assert said[0] == said[1]


async def first_is_last(setup: Engines, stream: bool) -> list[Any]:
    """Where the first token ends the answer, it ends a whole engine's too."""
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    chat = await setup.chat("hello there", max_tokens=1, logprobs=True, **options)
    text = await setup.complete("a b c", max_tokens=1, logprobs=1, **options)
    return [merged(chat, True), merged(text, False)]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_cached_tokens_are_those_of_who_computed_the_prompt(dialect: str, stream: bool, old: bool) -> None:
    engines = DIALECTS[dialect]("PD")
    for engine in engines:  # which knew no word of it between P and D
        if isinstance(engine, VllmServer):
            engine.tells_cached = not old
        if isinstance(engine, TrtllmServer):
            engine.old = old
    async with routing(dialect, engines, "pd") as setup:
        setup.engine("P").cached, setup.engine("D").cached = 2, 1
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        chat, text = await setup.chat("hello there", **options), await setup.complete("a b c", **options)
        for got in (chat, text):
            assert got.route == "P0>D0" and merged(got, got is chat)[1] == {
                "prompt_tokens": 3,
                "completion_tokens": 16,
                "total_tokens": 19,
                "prompt_tokens_details": {"cached_tokens": 2},
            }
        await setup.idle()


async def test_what_asks_of_the_prompt_is_for_who_computed_it() -> None:
    async with routing("vllm", vllm("PD"), "pd") as setup:
        for ask in OF_THE_PROMPT["vllm"]:
            assert (await setup.complete("a b c", max_tokens=2, **ask)).status == 200
        assert (await setup.chat("hi", max_tokens=2, prompt_logprobs=0)).status == 200
        assert not setup.engine("P").inferences and len(setup.engine("D").inferences) == 3
        await setup.idle()
    async with routing("trtllm", trtllm("PD"), "pd") as setup:
        for ask in OF_THE_PROMPT["trtllm"]:
            assert (await setup.complete("a b c", max_tokens=2, **ask)).status == 200
        assert not setup.engine("P").inferences and len(setup.engine("D").inferences) == 2
        await setup.idle()
