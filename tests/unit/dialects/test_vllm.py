from __future__ import annotations

import json

import pytest

from tercet.core.errors import RequestError
from tercet.core.route import Route
from tercet.core.stage import Mode, Stage
from tercet.dialects.protocol import Failure, Legs, Reply
from tercet.dialects.vllm import VllmDialect
from tests.unit.dialects.samples import NIXL_TICKET, SPLIT, D, P, chat_answer, only_leg, request

DIALECT = VllmDialect()


def test_legs_as_the_nixl_connector_wants_them() -> None:
    client = request(stream=True, stream_options={"include_usage": True}, max_tokens=9)
    exchange = DIALECT.begin(client, SPLIT)
    leg = only_leg(exchange)
    body = json.loads(leg.body)
    assert body["max_tokens"] == 1 and body["stream"] is False and "stream_options" not in body
    assert body["kv_transfer_params"]["do_remote_decode"] is True
    step = exchange.on_answer(leg, chat_answer(ticket=NIXL_TICKET))
    assert isinstance(step, Legs)
    assert json.loads(step.legs[0].body) == {**client.body, "kv_transfer_params": NIXL_TICKET}
    assert step.legs[0].streams
    assert exchange.on_exit(accepted=True) == ()


def test_a_release_is_a_request_that_d_refuses_and_a_token_that_makes_it_step() -> None:
    exchange = DIALECT.begin(request(max_tokens=1), SPLIT)
    step = exchange.on_answer(only_leg(exchange), chat_answer(ticket=NIXL_TICKET))
    assert isinstance(step, Reply) and step.early
    release, nudge = exchange.on_exit(accepted=False)
    body = json.loads(release.body)
    assert release.rank is D and release.stage is Stage.DECODE and release.url == "http://d:1/v1/completions"
    assert body["kv_transfer_params"] == NIXL_TICKET and body["model"] == "tercet-release"
    assert nudge.rank is D and json.loads(nudge.body) == {"model": "m", "prompt": "x", "max_tokens": 1}


@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
def test_several_answers_are_ds_alone_as_p_frees_its_blocks_when_the_first_has_read_them(connector: str) -> None:
    client = request(n=2, max_tokens=1, seed=1)
    exchange = VllmDialect(connector).begin(client, SPLIT)
    leg = only_leg(exchange)
    assert (leg.rank, leg.stage, leg.body) == (D, Stage.DECODE, client.raw)
    assert exchange.on_answer(leg, chat_answer()) == Reply(200, chat_answer().body)
    assert exchange.on_exit(accepted=False) == ()


def test_p2p_nccl_is_not_asked_for_several_answers() -> None:
    with pytest.raises(RequestError, match="one answer alone") as caught:
        VllmDialect("p2p-nccl").begin(request(n=2), SPLIT)
    assert (caught.value.status, caught.value.param) == (400, "n")


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_an_engine_gave_up_is_no_answer_from_whichever_leg(reason: str) -> None:
    exchange = DIALECT.begin(request(max_tokens=9), SPLIT)
    prefill = only_leg(exchange)
    step = exchange.on_answer(prefill, chat_answer(reason))
    assert isinstance(step, Failure) and step.retry and step.rank is P
    assert (step.error.status, step.error.code) == (502, "engine_error") and reason in step.error.message
    step = exchange.on_answer(prefill, chat_answer(ticket=NIXL_TICKET))
    assert isinstance(step, Legs)
    step = exchange.on_answer(step.legs[0], chat_answer(reason))
    assert isinstance(step, Failure) and step.retry and step.rank is D and reason in step.error.message


def test_without_blocks_there_is_nothing_to_release() -> None:
    exchange = DIALECT.begin(request(max_tokens=1), SPLIT)
    exchange.on_answer(only_leg(exchange), chat_answer(ticket={**NIXL_TICKET, "do_remote_prefill": False}))
    assert exchange.on_exit(accepted=False) == ()
    assert DIALECT.engines(b"") == ()


def test_a_prefill_worker_proves_itself_without_holding_anything() -> None:
    exchange = DIALECT.begin(request(max_tokens=2), Route(Mode.PD, P, P))
    leg = only_leg(exchange)
    body = json.loads(leg.body)
    assert leg.rank is P and body["max_tokens"] == 2 and "kv_transfer_params" not in body
    assert isinstance(exchange.on_answer(leg, chat_answer()), Reply)
    assert exchange.on_exit(accepted=False) == ()
