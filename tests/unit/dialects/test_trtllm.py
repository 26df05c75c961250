from __future__ import annotations

import json
from typing import Any

import pytest

from tercet.core.route import Route
from tercet.core.stage import Mode, Stage
from tercet.dialects.protocol import Answer, Failure, Legs, Reply
from tercet.dialects.trtllm import FIRST_ID, TrtllmDialect, random_id
from tests.unit.dialects.samples import DIRECT, SPLIT, D, P, only_leg, request

UNIQUE = 2**42 + 5
DIALECT = TrtllmDialect(request_id=lambda: UNIQUE)
IDS = [100, 101, 102]
STATE = {
    "request_type": "context_only",
    "first_gen_tokens": [7],
    "ctx_request_id": UNIQUE,
    "encoded_opaque_state": "b3BhcXVl",
    "draft_tokens": None,
    "disagg_request_id": UNIQUE,
    "ctx_dp_rank": 3,
    "ctx_info_endpoint": "tcp://h:1",
}
NEWER = {"schedule_style": None, "ctx_usage": None}
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 1,
    "total_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 2},
}
BOTH = ["/v1/chat/completions", "/v1/completions"]


def context_answer(path: str = BOTH[0], finish: str | None = "not_finished", **changes: Any) -> Answer:
    chat = path.endswith("chat/completions")
    content: dict[str, Any] = {"message": {"role": "assistant", "content": "Hi"}} if chat else {"text": "Hi"}
    choice = {"index": 0, **content, "finish_reason": finish, "disaggregated_params": STATE}
    data = {
        "id": "x",
        "object": "chat.completion" if chat else "text_completion",
        "model": "m",
        "choices": [choice],
        "usage": USAGE,
        "prompt_token_ids": IDS,
        **changes,
    }
    return Answer(200, {"content-type": "application/json"}, json.dumps(data).encode())


def choices(params: object, count: int = 1) -> list[dict[str, Any]]:
    content = {"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "length"}
    return [{"index": i, **content, "disaggregated_params": params} for i in range(count)]


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("stream", [False, True])
def test_the_context_leg_comes_first(path: str, stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    client = request(path, max_tokens=9, seed=1, **options)
    leg = only_leg(DIALECT.begin(client, SPLIT))
    assert (leg.rank, leg.stage, leg.path, leg.streams) == (P, Stage.PREFILL, path, False)
    wanted: dict[str, Any] = {k: v for k, v in client.body.items() if k != "stream_options"}
    params = {"request_type": "context_only", "disagg_request_id": UNIQUE}
    assert json.loads(leg.body) == {**wanted, "stream": False, "disaggregated_params": params}
    assert dict(leg.headers) == {"Content-Type": "application/json", "X-Request-Id": "r1"}


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("finish", ["length", "not_finished"])
def test_the_generation_leg_gets_state_and_token_ids(path: str, stream: bool, finish: str) -> None:
    client = request(path, max_tokens=9, stream=stream)
    exchange = DIALECT.begin(client, SPLIT)
    step = exchange.on_answer(only_leg(exchange), context_answer(path, finish))
    assert isinstance(step, Legs)
    (leg,) = step.legs
    assert (leg.rank, leg.stage, leg.streams) == (D, Stage.DECODE, stream)
    prompt = {"prompt_token_ids" if "chat" in path else "prompt": IDS}
    params = {**STATE, "request_type": "generation_only"}
    assert json.loads(leg.body) == {**client.body, **prompt, "disaggregated_params": params}
    assert exchange.on_exit(accepted=False) == ()


def test_newer_fields_are_sent_to_workers_that_name_them() -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    step = exchange.on_answer(only_leg(exchange), context_answer(choices=choices({**STATE, **NEWER})))
    assert isinstance(step, Legs)
    params = json.loads(step.legs[0].body)["disaggregated_params"]
    assert (params["schedule_style"], params["ctx_usage"]) == (0, USAGE)


def test_usage_says_what_the_context_had_cached() -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    step = exchange.on_answer(only_leg(exchange), context_answer())
    assert isinstance(step, Legs)
    own = {"prompt_tokens": 3, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}}
    answer = Answer(200, {}, json.dumps({"choices": [], "usage": own}).encode())
    reply = exchange.on_answer(step.legs[0], answer)
    assert isinstance(reply, Reply)
    assert json.loads(reply.body)["usage"] == {**own, "prompt_tokens_details": {"cached_tokens": 2}}


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_a_context_that_ended_skips_the_generation(path: str, stream: bool, finish: str) -> None:
    exchange = DIALECT.begin(request(path, stream=stream), SPLIT)
    step = exchange.on_answer(only_leg(exchange), context_answer(path, finish))
    assert isinstance(step, Reply) and step.early
    text = step.body.decode()
    assert "Hi" in text and "disaggregated_params" not in text and "prompt_token_ids" not in text
    assert text.endswith("data: [DONE]\n\n") is stream
    assert step.content_type == ("text/event-stream" if stream else "application/json")


@pytest.mark.parametrize("extra", [{"n": 2}, {"best_of": 3}, {"n": 2.0}, {"best_of": 3.0}])
def test_several_choices_are_the_generations_alone(extra: dict[str, Any]) -> None:
    client = request(**extra)
    leg = only_leg(DIALECT.begin(client, SPLIT))
    assert leg.rank is D and leg.body == client.raw


@pytest.mark.parametrize("route", [DIRECT, Route(Mode.PD, P, P)])
def test_one_worker_alone_gets_the_body_as_it_came(route: Route) -> None:
    client = request(stream=True)
    exchange = DIALECT.begin(client, route)
    leg = only_leg(exchange)
    assert leg.rank is route.decode and leg.body == client.raw and leg.streams
    assert "X-data-parallel-rank" not in dict(leg.headers), "the worker itself chooses"
    answer = Answer(200, {}, b"{}")
    step = exchange.on_answer(leg, answer)
    assert isinstance(step, Reply) and step.body is answer.body


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (context_answer(choices=choices(None)), "bad_worker_answer"),
        (context_answer(choices=choices({**STATE, "ctx_request_id": None})), "bad_worker_answer"),
        (context_answer(choices=choices(STATE, 2)), "bad_worker_answer"),
        (context_answer(choices=[]), "bad_worker_answer"),
        (context_answer(choices=[3]), "bad_worker_answer"),
        (context_answer(choices=None), "bad_worker_answer"),
        (context_answer(prompt_token_ids=None), "bad_worker_answer"),
        (context_answer(prompt_token_ids=[]), "bad_worker_answer"),
        (Answer(200, {}, b""), "bad_worker_answer"),
        (Answer(200, {}, b"[]"), "bad_worker_answer"),
        (context_answer(finish="error"), "engine_error"),
        (context_answer(finish="cancelled"), "engine_error"),
        (context_answer(finish="timeout"), "engine_error"),
        (Answer(500, {}, b'{"object":"error","message":"m","type":"t","param":null,"code":500}'), "500"),
    ],
)
def test_contexts_that_failed(answer: Answer, code: str) -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    step = exchange.on_answer(only_leg(exchange), answer)
    assert isinstance(step, Failure) and step.rank is P and step.retry and step.error.code == code


def test_a_4xx_is_the_clients() -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    flat = b'{"object":"error","message":"m","type":"t","param":null,"code":400}'
    step = exchange.on_answer(only_leg(exchange), Answer(400, {}, flat))
    assert isinstance(step, Reply) and step.status == 400 and json.loads(step.body)["error"]["message"] == "m"


def test_ids_are_above_those_of_the_workers_and_never_the_same() -> None:
    ids = {random_id() for _ in range(100)}
    assert len(ids) == 100 and all(FIRST_ID <= each < 2**63 for each in ids)
    assert DIALECT.decode_alone and DIALECT.engines(b"") == ()
