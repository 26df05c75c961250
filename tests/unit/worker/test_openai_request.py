from __future__ import annotations

from typing import Any

import pytest

from tercet.core.errors import RequestError
from tercet.engine.models.store import random_model_folder
from tercet.text.tokenizer import Tokenizer, load_tokenizer
from tercet.worker.fields import bad
from tercet.worker.openai_request import Generation, parse_body, parse_generation
from tests.unit.worker.test_wire import TICKET


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(random_model_folder("tiny").path)


def parse(tokenizer: Tokenizer, body: dict[str, Any], chat: bool = False) -> Generation:
    return parse_generation(body, chat=chat, tokenizer=tokenizer, max_model_len=100)


def test_prompt_forms(tokenizer: Tokenizer) -> None:
    for prompt, count in (("abc", 1), (["abc", "de"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)):
        assert len(parse(tokenizer, {"prompt": prompt}).prompts) == count
    assert parse(tokenizer, {"prompt": [1, 2, 3]}).prompts == ((1, 2, 3),)


def test_chat_takes_strings_and_parts(tokenizer: Tokenizer) -> None:
    whole = parse(tokenizer, {"messages": [{"role": "user", "content": "a\nb"}]}, chat=True)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse(tokenizer, {"messages": [{"role": "user", "content": parts}]}, chat=True).prompts == whole.prompts


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "top_p": 1.5}, "top_p"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 1000}, "prompt"),
        ({"prompt": "a", "n": 1000}, "n"),
        ({"prompt": ["a"] * 9, "n": 9}, "n"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stream": "yes"}, "stream"),
        ({"prompt": "a", "seed": 1.5}, "seed"),
        ({"prompt": "a", "logprobs": 99}, "logprobs"),
        ({"prompt": "a", "stop_token_ids": ["x"]}, "stop_token_ids"),
        ({"prompt": "a", "stop_token_ids": ""}, "stop_token_ids"),
        ({"prompt": "a", "stop": False}, "stop"),
        ({"prompt": "a", "stream_options": {"include_usage": 1}}, "include_usage"),
        ({"prompt": "a", "max_tokens": -1, "max_completion_tokens": 1}, "max_tokens"),
        ({"prompt": "a", "presence_penalty": 1}, "presence_penalty"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": "a", "n": 2, "kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params"),
        ({"prompt": "a", "kv_transfer_params": {"do_remote_prefill": True}}, "kv_transfer_params"),
        ({"prompt": "a", "stream": True, "kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params"),
        ({"prompt": "a", "kv_transfer_params": "x"}, "kv_transfer_params"),
        ({"prompt": "a", "response_format": "json_object"}, "response_format"),
        ({"prompt": "a", "stream": True, "stream_options": True}, "stream_options"),
        ({"prompt": "a", "min_p": 0.1}, "min_p"),
        ({"prompt": "a", "repetition_penalty": 1.1}, "repetition_penalty"),
        ({"prompt": "a", "guided_json": {}}, "guided_json"),
        ({"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "return_tokens_as_token_ids": True}, "return_tokens_as_token_ids"),
        ({"prompt": "a", "logprob_token_ids": [5]}, "logprob_token_ids"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "a", "min_tokens": 50}, "min_tokens"),
        ({"prompt": ["a", [1]], "n": "2"}, "n"),
        ({"prompt": "a", "cache_salt": "\ud800"}, "cache_salt"),
    ],
)
def test_wrong_fields_are_named(tokenizer: Tokenizer, body: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(tokenizer, body)
    assert (caught.value.status, caught.value.param) == (400, field)


def test_limits(tokenizer: Tokenizer) -> None:
    assert parse(tokenizer, {"prompt": [1] * 10}).sampling.max_tokens == 16
    assert parse(tokenizer, {"prompt": [1] * 95}).sampling.max_tokens == 5
    assert parse(tokenizer, {"messages": [{"role": "user", "content": "a"}]}, chat=True).sampling.max_tokens > 16
    with pytest.raises(RequestError, match=r"100 tokens.*130 tokens") as caught:
        parse(tokenizer, {"prompt": [1] * 130})
    assert caught.value.code == "context_length_exceeded"
    long = "a " * 500_000
    for body, chat in (({"prompt": ["a", long]}, False), ({"messages": [{"role": "user", "content": long}]}, True)):
        with pytest.raises(RequestError, match="characters have more") as caught:
            parse(tokenizer, body, chat)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages" if chat else "prompt")
    held = {"prompt": [1] * 130, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
    with pytest.raises(RequestError, match=r"130 tokens in the prompt\. Shorten"):
        parse(tokenizer, held)


def test_a_ticket_brings_tokens_and_seed(tokenizer: Tokenizer) -> None:
    got = parse(tokenizer, {"prompt": "ignored", "kv_transfer_params": TICKET.to_params()})
    assert got.prompts == (TICKET.token_ids,) and got.ticket == TICKET
    assert got.sampling.seed == TICKET.seed
    assert parse(tokenizer, {"seed": 5, "kv_transfer_params": TICKET.to_params()}).sampling.seed == 5


def test_a_drawn_seed_differs(tokenizer: Tokenizer) -> None:
    assert parse(tokenizer, {"prompt": "a"}).sampling.seed != parse(tokenizer, {"prompt": "a"}).sampling.seed


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_objects(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_body(body)
    assert caught.value.status == 400


def test_chat_refusals(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "a"}]
    for field, value in (
        ("tool_choice", "required"),
        ("top_logprobs", 2),
        ("tools", {"x": 1}),
        ("chat_template_kwargs", []),
        ("chat_template", "{{ messages }}"),
        ("documents", [{"title": "t", "text": "x"}]),
        ("mm_processor_kwargs", {"do_resize": False}),
        ("media_io_kwargs", {"image": {"mode": "L"}}),
    ):
        with pytest.raises(RequestError) as caught:
            parse(tokenizer, {"messages": messages, field: value}, chat=True)
        assert (caught.value.status, caught.value.param) == (400, field)


def test_what_asks_for_nothing_is_accepted(tokenizer: Tokenizer) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}], "logprobs": False, "top_logprobs": 0}
    assert parse(tokenizer, chat, chat=True).sampling.logprobs is None
    body = {"presence_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": {}, "min_p": 0, "best_of": 2, "n": 2}
    assert parse(tokenizer, {"prompt": "a", "response_format": {"type": "text"}, "tools": None, **body}).n == 2


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_token_ids": [10**6, *range(1, 20)]},
        {"prompt_token_ids": [-1, *range(1, 20)]},
        {"prompt_token_ids": [], "remote_block_ids": []},
        {"first_token": {"id": -5, "logprob": None, "top": []}},
        {"first_token": {"id": 9, "logprob": -0.5, "top": [[9, -0.5], [1 << 63, -1.5]]}},
        {"lease_s": float("nan")},
        {"lease_s": 0},
        {"lease_s": "soon"},
        {"block_size": float("inf")},
    ],
)
def test_tickets_that_could_break_an_engine(tokenizer: Tokenizer, change: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        parse(tokenizer, {"kv_transfer_params": {**TICKET.to_params(), **change}})
    assert (caught.value.status, caught.value.code) == (400, "ticket_mismatch")


@pytest.mark.parametrize("value", ["ü" * 3_000_000, ["ü" * 50] * 100_000, {"a": ["ü" * 3_000_000]}])
def test_of_a_long_value_that_is_wrong_the_beginning_is_told(value: object) -> None:
    assert len(bad("temperature", "a number", value).message) < 200
    assert len(RequestError(400, f"role is {value!r}").message) < 5_000
    assert bad("n", "an integer", ["x", None]).message == 'n must be an integer, not ["x", null]'
