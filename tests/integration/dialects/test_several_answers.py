"""What routing takes for several answers to a prompt, dialects do: a leg to P is counted when there is one."""

from __future__ import annotations

from typing import Any

import pytest

from tercet.core.errors import RequestError
from tercet.core.stage import Mode, Stage
from tercet.dialects.protocol import Answer, Dialect, Legs
from tercet.dialects.registry import dialect_for
from tercet.dialects.request import CHAT_PATH, COMPLETIONS_PATH, ClientRequest, dump
from tercet.routing.modes import route
from tercet.routing.policy import Policy
from tests.unit.routing.fleets import MODEL, chat, make_fleet, routed, text

FIELDS = ("n", "best_of")
VALUES: tuple[Any, ...] = (None, 1, 1.0, True, 0, False, 2, 2.0, -1, "1", "2", "x", [], {})
BODIES = [{field: value} for field in FIELDS for value in VALUES] + [{"n": 1, "best_of": 2}, {"n": 2, "best_of": 2}]


@pytest.mark.parametrize("path", [CHAT_PATH, COMPLETIONS_PATH])
@pytest.mark.parametrize("engine", ["tercet", "vllm", "trtllm"])
@pytest.mark.parametrize("extra", BODIES, ids=str)
def test_the_routed_legs_are_those_that_are_sent(engine: str, path: str, extra: dict[str, Any]) -> None:
    dialect = dialect_for(engine, {})
    policy = Policy(decode_alone=dialect.decode_alone, one_choice=dialect.one_choice)
    facts = chat("x", **extra) if path == CHAT_PATH else text("x", **extra)
    found = routed(route(Mode.PD, facts, make_fleet("PD"), policy))
    for way in (found, routed(route(Mode.PD, chat("x"), make_fleet("PD"), policy))):  # and if it were through P
        legs = dialect.begin(client(path, extra), way).start()
        assert isinstance(legs, Legs)
        assert [leg.stage for leg in legs.legs] == [Stage.DECODE if found.prefill is None else Stage.PREFILL]


@pytest.mark.parametrize("extra", BODIES, ids=str)
def test_those_who_ignore_best_of_are_not_kept_from_it(extra: dict[str, Any]) -> None:
    for dialect in (dialect_for("sglang", {}), dialect_for("vllm", {}, "p2p-nccl")):
        refused = "n" in extra and extra["n"] not in (None, 1)
        assert refuses(dialect, client(CHAT_PATH, extra)) == refused


def test_one_worker_and_a_pair_say_the_same_of_best_of() -> None:
    """The built-in engine refuses it: so P's answer is not the client's, though one token is all that is wanted."""
    way = routed(route(Mode.PD, text("x", best_of=2), make_fleet("PD"), Policy()))
    exchange = dialect_for("tercet", {}).begin(client(COMPLETIONS_PATH, {"best_of": 2, "max_tokens": 1}), way)
    legs = exchange.start()
    assert isinstance(legs, Legs)
    body = {"choices": [{"index": 0, "text": "a", "finish_reason": "length"}], "kv_transfer_params": {"ticket_id": "t"}}
    step = exchange.on_answer(legs.legs[0], Answer(200, {}, dump(body)))
    assert isinstance(step, Legs) and step.legs[0].stage is Stage.DECODE


def client(path: str, extra: dict[str, Any]) -> ClientRequest:
    what = {"messages": [{"role": "user", "content": "x"}]} if path == CHAT_PATH else {"prompt": "x"}
    body = {"model": MODEL, **what, **extra}
    return ClientRequest(path, body, dump(body))


def refuses(dialect: Dialect, request: ClientRequest) -> bool:
    facts = chat("x", **{field: request.body[field] for field in FIELDS if field in request.body})
    policy = Policy(decode_alone=dialect.decode_alone, one_choice=dialect.one_choice)
    try:
        dialect.begin(request, routed(route(Mode.PD, facts, make_fleet("PD"), policy))).start()
    except RequestError as error:
        assert (error.status, error.code, error.param) == (400, "one_choice", "n")
        return True
    return False
