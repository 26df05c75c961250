from __future__ import annotations

import json
from typing import Any

import pytest

from tercet.core.errors import UsageError
from tercet.core.stage import Stage
from tercet.dialects.protocol import Answer, EngineState, Failure, Legs, Reply
from tercet.dialects.registry import dialect_named
from tercet.dialects.tercet import TercetDialect
from tests.unit.dialects.samples import DIRECT, SPLIT, TICKET, D, P, chat_answer, only_leg, request, sent_body

DIALECT = TercetDialect()


def test_direct_sends_the_body_as_it_came() -> None:
    client = request(stream=True, temperature=0.5)
    exchange = DIALECT.begin(client, DIRECT)
    leg = only_leg(exchange)
    assert leg.body == client.raw and leg.stage is Stage.DECODE and leg.streams
    assert leg.url == "http://d:1/v1/chat/completions"
    assert dict(leg.headers) == {
        "Content-Type": "application/json",
        "X-data-parallel-rank": "3",
        "X-Request-Id": "r1",
    }
    assert exchange.on_exit(False) == ()


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"stream": True, "stream_options": {"include_usage": True}, "n": 3, "max_tokens": 50},
        {"max_completion_tokens": 9, "min_tokens": 4, "logprobs": True, "tools": [{"a": 1}], "unknown": 1},
    ],
)
def test_prefill_leg(extra: dict[str, Any]) -> None:
    client = request(**extra)
    leg = only_leg(DIALECT.begin(client, SPLIT))
    body = json.loads(leg.body)
    assert leg.rank is P and leg.stage is Stage.PREFILL and not leg.streams
    assert "X-data-parallel-rank" not in dict(leg.headers)
    assert body.pop("kv_transfer_params") == {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    changed = {"max_tokens": 1, "n": 1, "stream": False}
    if "max_completion_tokens" in extra:
        changed |= {"max_completion_tokens": 1, "min_tokens": 1}
    wanted = {**client.body, **changed}
    wanted.pop("stream_options", None)
    assert body == wanted


@pytest.mark.parametrize("stream", [False, True])
def test_decode_leg_carries_the_ticket_verbatim(stream: bool) -> None:
    client = request(stream=stream, max_tokens=50, x_unknown=[1])
    exchange = DIALECT.begin(client, SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer(ticket=TICKET))
    assert isinstance(step, Legs)
    (leg,) = step.legs
    assert leg.rank is D and leg.streams is stream
    assert json.loads(leg.body) == {**client.body, "kv_transfer_params": TICKET}


def to_decode(**extra: Any) -> tuple[Any, Any]:
    exchange = DIALECT.begin(request(**extra), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer(ticket=TICKET))
    assert isinstance(step, Legs)
    return exchange, step.legs[0]


def test_blocks_are_released_on_every_exit_but_acceptance() -> None:
    exchange, _ = to_decode()
    assert exchange.on_exit(accepted=True) == ()
    exchange, _ = to_decode()
    (release,) = exchange.on_exit(accepted=False)
    assert release.url == "http://p:1/kv/release" and json.loads(release.body) == {"ticket_id": "ticket-1"}
    assert exchange.on_exit(accepted=False) == (), "once is enough"


def test_before_p_answered_there_is_nothing_to_release() -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    exchange.start()
    assert exchange.on_exit(accepted=False) == ()


def test_an_answer_that_ended_at_p_skips_d() -> None:
    exchange = DIALECT.begin(request(max_tokens=50), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer("stop"))
    assert isinstance(step, Reply) and step.early and step.content_type == "application/json"
    assert json.loads(step.body) == json.loads(chat_answer("stop").body)
    assert exchange.on_exit(accepted=False) == ()


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_one_token_skips_d_and_releases(limit: str) -> None:
    extra: dict[str, Any] = {limit: 1}
    exchange = DIALECT.begin(request(**extra), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer("length", TICKET))
    assert isinstance(step, Reply) and step.early
    assert "kv_transfer_params" not in json.loads(step.body)
    assert len(exchange.on_exit(accepted=False)) == 1


def test_several_choices_need_d_even_if_the_first_ended() -> None:
    client = request(n=2, max_tokens=1)
    exchange = DIALECT.begin(client, SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer("length", TICKET))
    assert isinstance(step, Legs) and json.loads(step.legs[0].body)["n"] == 2
    exchange = DIALECT.begin(client, SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer("stop"))
    assert isinstance(step, Legs) and step.legs[0].body == client.raw


def test_a_number_of_choices_that_is_none_is_ds_to_refuse() -> None:
    exchange = DIALECT.begin(request(n="x", max_tokens=1), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer("length", TICKET))
    assert isinstance(step, Legs) and json.loads(step.legs[0].body)["n"] == "x"


@pytest.mark.parametrize("words", [1, 100_000])
@pytest.mark.parametrize(
    ("wanted", "at_p"),
    [
        ({"max_tokens": 1, "min_tokens": 5}, 5),
        ({"max_tokens": 9, "max_completion_tokens": 1, "min_tokens": 5}, 5),
        ({"max_tokens": 1, "max_completion_tokens": 9, "min_tokens": 5}, 1),
        ({"max_tokens": 9, "min_tokens": 5}, 1),
    ],
)
def test_more_tokens_at_least_than_at_most_are_refused_where_the_answer_would_end(
    wanted: dict[str, Any], at_p: int, words: int
) -> None:
    client = request("/v1/completions", prompt="word " * words, **wanted)
    assert json.loads(sent_body(only_leg(DIALECT.begin(client, SPLIT))))["min_tokens"] == at_p


def events(body: bytes) -> list[Any]:
    parts = body.decode().split("\n\n")
    assert parts[-1] == "" and parts[-2] == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def test_an_early_end_becomes_a_chat_stream() -> None:
    exchange = DIALECT.begin(request(stream=True, stream_options={"include_usage": True}), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer("stop", id="abc"))
    assert isinstance(step, Reply) and step.content_type == "text/event-stream"
    first, last = events(step.body)
    assert first["object"] == "chat.completion.chunk" and first["id"] == "abc" and first["usage"] is None
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "Hi"}
    assert first["choices"][0]["finish_reason"] == "stop" and "message" not in first["choices"][0]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 1


def test_an_early_end_tells_the_usage_so_far_where_that_is_asked_for() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    exchange = DIALECT.begin(request(stream=True, stream_options=options), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer("stop"))
    assert isinstance(step, Reply)
    first, last = events(step.body)
    assert first["usage"] == last["usage"] and last["usage"]["completion_tokens"] == 1


def test_an_early_end_becomes_a_completion_stream_without_usage_unless_asked() -> None:
    answer = {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "x", "finish_reason": "stop", "token_ids": [5]}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
    exchange = DIALECT.begin(request("/v1/completions", stream=True), SPLIT)
    step = exchange.on_answer(only_leg(exchange), Answer(200, {}, json.dumps(answer).encode()))
    assert isinstance(step, Reply)
    assert events(step.body) == [{"object": "text_completion", "choices": answer["choices"]}]


def test_tool_calls_of_an_early_end_get_their_index() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}}
    exchange = DIALECT.begin(request(stream=True), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer(choices=[{**choice, "finish_reason": "tool_calls"}]))
    assert isinstance(step, Reply)
    assert events(step.body)[0]["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **call}]


def test_usage_says_what_p_had_cached() -> None:
    exchange, leg = to_decode()
    step = exchange.on_answer(leg, chat_answer(usage={"prompt_tokens": 3, "completion_tokens": 9}))
    assert isinstance(step, Reply)
    assert json.loads(step.body)["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_a_direct_answer_passes_unchanged() -> None:
    exchange = DIALECT.begin(request(), DIRECT)
    answer = chat_answer()
    step = exchange.on_answer(only_leg(exchange), answer)
    assert isinstance(step, Reply) and step.body is answer.body


ERROR = b'{"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}'


@pytest.mark.parametrize("status", [400, 404, 422, 429])
def test_a_4xx_is_the_clients_and_passes_verbatim(status: int) -> None:
    answer = Answer(status, {"content-type": "application/json"}, ERROR)
    exchange, leg = to_decode()
    assert exchange.on_answer(leg, answer) == Reply(status, ERROR)
    exchange = DIALECT.begin(request(), SPLIT)
    assert exchange.on_answer(only_leg(exchange), answer) == Reply(status, ERROR)


@pytest.mark.parametrize("status", [500, 502, 503, 302])
def test_a_5xx_may_be_tried_elsewhere(status: int) -> None:
    exchange, leg = to_decode()
    step = exchange.on_answer(leg, Answer(status, {}, ERROR))
    assert isinstance(step, Failure) and step.retry and step.rank is D
    assert (step.error.status, step.error.message) == (502 if status == 302 else status, "too long")
    assert step.error.code == "context_length_exceeded"
    assert len(exchange.on_exit(accepted=False)) == 1
    step = exchange.on_answer(leg, Answer(status, {}, b"<html>"))
    assert isinstance(step, Failure) and "D1" in step.error.message and "<html>" in step.error.message


def test_a_ticket_that_does_not_fit_is_not_the_clients_fault() -> None:
    exchange, leg = to_decode()
    step = exchange.on_answer(leg, Answer(400, {}, b'{"error": {"message": "dtype", "code": "ticket_mismatch"}}'))
    assert isinstance(step, Failure) and step.misfit and step.retry and step.error.status == 502
    assert "dtype" in step.error.message
    assert len(exchange.on_exit(accepted=False)) == 1


def test_finish_reason_error_is_a_failure() -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer("error"))
    assert isinstance(step, Failure) and step.retry and step.rank is P and step.error.status == 502
    exchange, leg = to_decode()
    step = exchange.on_answer(leg, chat_answer("error"))
    assert isinstance(step, Failure) and step.rank is D


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'"x"'])
def test_a_prefill_answer_that_is_none(body: bytes) -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    step = exchange.on_answer(only_leg(exchange), Answer(200, {}, body))
    assert isinstance(step, Failure) and step.error.code == "bad_worker_answer"


def test_engines_of_a_front() -> None:
    body = {"ready": False, "engines": [{"rank": 0, "engine_id": "a", "ready": True, "pid": 3}]}
    body["engines"].append({"rank": 1, "engine_id": None, "ready": False})  # type: ignore[attr-defined]
    sized = {"engines": [{"rank": 0, "engine_id": "a", "ready": True, "kv_tokens": 1600}]}
    assert DIALECT.engines(json.dumps(sized).encode())[0].kv_tokens == 1600
    assert DIALECT.engines(json.dumps(body).encode()) == (EngineState(0, "a", True), EngineState(1, None, False))
    for raw in (b"", b"{}", b'{"engines": [1]}', b"[]", b'{"engines": [{}]}'):
        assert DIALECT.engines(raw) == ()


def test_unknown_dialect() -> None:
    assert dialect_named("tercet").name == "tercet"
    with pytest.raises(UsageError, match="vllm"):
        dialect_named("x")
