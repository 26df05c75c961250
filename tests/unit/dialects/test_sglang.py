from __future__ import annotations

import json
from typing import Any

import pytest

from tercet.core.errors import RequestError, UsageError
from tercet.core.route import Rank, Route
from tercet.core.stage import Mode, Stage
from tercet.dialects.protocol import Answer, Failure, Legs, Reply
from tercet.dialects.registry import dialect_for, dialect_named
from tercet.dialects.sglang import ROOMS, SglangDialect, random_room
from tests.unit.dialects.samples import DIRECT, SPLIT, D, P, chat_answer, only_leg, request

DIALECT = SglangDialect(room=lambda: 42)
MEETING = {"bootstrap_host": "p", "bootstrap_port": 8998, "bootstrap_room": 42}
A = Rank("A", 0, "http://a:1")

# As sglang 0.5.23 writes them (entrypoints/openai/serving_base.py).
FLAT = b'{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}'
IN_STREAM = b'data: {"error": {"object": "error", "message": "KV transfer failed", "type": "x", "code": 500}}\n\n'


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_both_legs_at_once_with_the_same_body(path: str, stream: bool) -> None:
    client = request(path, stream=stream, max_tokens=9, n=1, x_unknown=[1])
    prefill, decode = DIALECT.begin(client, SPLIT).start().legs
    assert (prefill.rank, prefill.stage, prefill.streams) == (P, Stage.PREFILL, False)
    assert (decode.rank, decode.stage, decode.streams) == (D, Stage.DECODE, stream)
    assert prefill.path == decode.path == path
    assert json.loads(prefill.body) == {**client.body, **MEETING}
    assert json.loads(decode.body) == {**client.body, **MEETING, "routed_dp_rank": 3}


@pytest.mark.parametrize(
    ("p_rank", "d_rank", "on_p", "on_d"),
    [
        (None, None, {}, {}),
        (0, None, {"routed_dp_rank": 0}, {"disagg_prefill_dp_rank": 0}),
        (None, 1, {}, {"routed_dp_rank": 1}),
        (2, 1, {"routed_dp_rank": 2}, {"routed_dp_rank": 1, "disagg_prefill_dp_rank": 2}),
    ],
)
def test_ranks(p_rank: int | None, d_rank: int | None, on_p: dict[str, int], on_d: dict[str, int]) -> None:
    client = request()
    route = Route(Mode.PD, Rank("D", 0, "http://d:1", d_rank), Rank("P", 0, "http://p:1", p_rank))
    for leg, more in zip(DIALECT.begin(client, route).start().legs, (on_p, on_d), strict=True):
        assert json.loads(leg.body) == {**client.body, **MEETING, **more}
        assert dict(leg.headers).get("X-data-parallel-rank") == (
            str(more["routed_dp_rank"]) if "routed_dp_rank" in more else None
        )


def test_bootstrap_ports_are_each_workers_own() -> None:
    dialect = dialect_for("sglang", {"http://p:1": 9001})
    for leg in dialect.begin(request(), SPLIT).start().legs:
        assert json.loads(leg.body)["bootstrap_port"] == 9001
    assert dialect_for("vllm", {}).name == "vllm"
    with pytest.raises(UsageError, match="bootstrap"):
        dialect_for("vllm", {"http://p:1": 9001})


def test_rooms_are_positive_and_never_the_same() -> None:
    rooms = {random_room() for _ in range(100)}
    assert len(rooms) == 100 and all(0 < room <= ROOMS < 2**63 for room in rooms)


@pytest.mark.parametrize("n", [2, "2", 0])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_several_choices_would_share_a_room_and_are_refused(path: str, n: object) -> None:
    with pytest.raises(RequestError, match="one answer alone") as caught:
        DIALECT.begin(request(path, n=n), SPLIT).start()
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "one_choice", "n")
    client = request(path, n=n)
    assert only_leg(DIALECT.begin(client, Route(Mode.REPLICATED, A))).body == client.raw


def test_a_whole_worker_gets_the_body_as_it_came() -> None:
    client = request(stream=True)
    leg = only_leg(DIALECT.begin(client, Route(Mode.REPLICATED, A)))
    assert leg.body == client.raw and leg.streams
    leg = only_leg(DIALECT.begin(client, Route(Mode.REPLICATED, Rank("A", 0, "http://a:1", 1))))
    assert json.loads(leg.body) == {**client.body, "routed_dp_rank": 1}


def test_d_alone_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        DIALECT.begin(request(), DIRECT).start()
    assert caught.value.status == 501 and "D1" in caught.value.message
    assert not dialect_named("sglang").decode_alone


@pytest.mark.parametrize("rank", [P, D])
def test_half_a_pair_proves_itself_without_the_other(rank: Rank) -> None:
    exchange = DIALECT.begin(request(), Route(Mode.PD, rank, rank))
    leg = only_leg(exchange)
    body = json.loads(leg.body)
    assert leg.rank is rank
    assert (body["bootstrap_host"], body["bootstrap_room"]) == ("2.2.2.2", rank.rank or 0)
    assert isinstance(exchange.on_answer(leg, chat_answer()), Reply)


def test_ps_answer_is_nothing_and_ds_is_the_clients() -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    prefill, decode = exchange.start().legs
    assert exchange.on_answer(prefill, chat_answer()) == Legs(())
    answer = chat_answer("stop")
    step = exchange.on_answer(decode, answer)
    assert isinstance(step, Reply) and step.body is answer.body and not step.early
    assert exchange.on_exit(accepted=False) == ()


STREAM = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":%b}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("leg", [0, 1])
@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (Answer(500, {}, FLAT.replace(b"400", b"500")), 500, "500"),
        (Answer(503, {}, b"<html>"), 503, "worker_error"),
        (Answer(302, {}, b""), 502, "worker_error"),
        (Answer(200, {}, IN_STREAM), 500, "500"),
        (Answer(200, {}, IN_STREAM.replace(b"500", b"null")), 502, None),
        (Answer(200, {}, IN_STREAM[:50]), 502, "engine_error"),
        (Answer(200, {}, STREAM % b'"abort"'), 502, "engine_error"),
        (chat_answer("abort"), 502, "engine_error"),
    ],
)
def test_failures_of_either_leg(leg: int, answer: Answer, status: int, code: str | None) -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    sent = exchange.start().legs[leg]
    step = exchange.on_answer(sent, answer)
    assert isinstance(step, Failure) and step.retry and step.rank is sent.rank
    assert (step.error.status, step.error.code) == (status, code)


@pytest.mark.parametrize("leg", [0, 1])
def test_a_4xx_is_the_clients_as_openai_writes_it(leg: int) -> None:
    exchange = DIALECT.begin(request(), SPLIT)
    step = exchange.on_answer(exchange.start().legs[leg], Answer(400, {}, FLAT))
    assert isinstance(step, Reply) and step.status == 400
    wanted: dict[str, Any] = {"message": "too long", "type": "BadRequestError", "code": "400", "param": None}
    assert json.loads(step.body) == {"error": wanted}
    step = exchange.on_answer(exchange.start().legs[leg], Answer(200, {}, IN_STREAM.replace(b"500", b"400")))
    assert isinstance(step, Reply) and step.status == 400, "in a stream, too"
    assert json.loads(step.body)["error"]["message"] == "KV transfer failed"
    for body in (b'{"error": {"message": "x"}}', b'{"detail": "x"}', b"text", b"[1]"):
        step = exchange.on_answer(exchange.start().legs[leg], Answer(422, {}, body))
        assert isinstance(step, Reply) and step.body == body, "what is not flat passes as it is"


def test_a_prefill_stream_that_ended_well() -> None:
    exchange = DIALECT.begin(request(stream=True), SPLIT)
    assert exchange.on_answer(exchange.start().legs[0], Answer(200, {}, STREAM % b'"length"')) == Legs(())


def test_the_ready_answer_says_nothing_of_ranks() -> None:
    assert DIALECT.engines(b'{"model_path": "m"}') == ()
