from __future__ import annotations

import json
from typing import Any

import pytest

from tercet.core.errors import UsageError
from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.dialects.protocol import Answer, Exchange, Failure, Leg, Legs, Reply, Step
from tercet.dialects.registry import dialect_for
from tercet.dialects.vllm import VllmDialect
from tests.unit.dialects.samples import DIRECT, NIXL_TICKET, SPLIT, D, chat_answer, request, sent_body

ENGINES = Answer(200, {}, b'{"0": {"engine_id": "e0", "worker_addr": {}}, "1": {"engine_id": "e1"}}')
MOONCAKE = VllmDialect("mooncake", {"http://p:1": 9001})


def legs(step: Step) -> tuple[Leg, ...]:
    assert isinstance(step, Legs), step
    return step.legs


def begun(**more: Any) -> tuple[Exchange, Leg, Leg]:
    exchange = MOONCAKE.begin(request(max_tokens=9, **more), SPLIT)
    prefill, ask = exchange.start().legs
    return exchange, prefill, ask


@pytest.mark.parametrize("engines_first", [False, True])
def test_mooncake_both_answers_make_the_ticket(engines_first: bool) -> None:
    exchange, prefill, ask = begun(note='"kv_transfer_params":{')
    assert (ask.method, ask.url) == ("GET", "http://p:9001/query")
    asked = json.loads(prefill.body)["kv_transfer_params"]
    transfer = asked.pop("transfer_id")
    assert asked == {"do_remote_decode": True, "do_remote_prefill": False} and len(transfer) == 32
    given = [(ask, ENGINES), (prefill, chat_answer())]
    first, second = given if engines_first else given[::-1]
    assert exchange.on_answer(*first) == Legs(())
    (decode,) = legs(exchange.on_answer(*second))
    ticket = {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_bootstrap_addr": "http://p:9001",
        "remote_engine_id": "e0",
        "transfer_id": transfer,
        "remote_prefill_cached_tokens": 2,
    }
    assert json.loads(decode.body)["kv_transfer_params"] == ticket
    release, _nudge = exchange.on_exit(accepted=False)
    assert release.rank == D and json.loads(release.body)["kv_transfer_params"] == ticket


def test_mooncake_takes_the_ranks_own_engine() -> None:
    rank = Rank("P", 0, "http://p:1", 1)
    exchange = MOONCAKE.begin(request(), Route(Mode.PD, D, rank))
    prefill, ask = exchange.start().legs
    exchange.on_answer(prefill, chat_answer())
    (decode,) = legs(exchange.on_answer(ask, ENGINES))
    assert json.loads(decode.body)["kv_transfer_params"]["remote_engine_id"] == "e1"


@pytest.mark.parametrize("answer", [Answer(404, {}, b"no"), Answer(200, {}, b"{}"), Answer(200, {}, b"[1]")])
def test_mooncake_without_an_engine_is_a_failure_of_p(answer: Answer) -> None:
    exchange, prefill, ask = begun()
    exchange.on_answer(prefill, chat_answer())
    step = exchange.on_answer(ask, answer)
    assert isinstance(step, Failure) and step.rank == prefill.rank
    assert "P0" in step.error.message and "bootstrap server" in step.error.message
    assert "9001" not in step.error.message, "a client is to hear no address"


def test_mooncake_a_prefill_that_fails_or_ends_needs_no_engine() -> None:
    exchange, prefill, _ = begun()
    assert isinstance(exchange.on_answer(prefill, Answer(500, {}, b"{}")), Failure)
    exchange, prefill, ask = begun()
    exchange.on_answer(ask, ENGINES)
    step = exchange.on_answer(prefill, chat_answer("stop"))
    assert isinstance(step, Reply) and step.early and not exchange.on_exit(accepted=False)


def test_p2p_nccl_both_legs_carry_both_addresses() -> None:
    dialect = VllmDialect("p2p-nccl", {"http://d:1": 7})
    exchange = dialect.begin(request(max_tokens=9), SPLIT)
    (prefill,) = exchange.start().legs
    assert json.loads(prefill.body)["kv_transfer_params"] is None
    (decode,) = legs(exchange.on_answer(prefill, chat_answer()))
    names = [[value for name, value in leg.headers if name == "X-Request-Id"] for leg in (prefill, decode)]
    assert names[0] == names[1] and len(names[0]) == 1
    assert names[0][0].startswith("___prefill_addr_p:21001___decode_addr_d:7_")
    assert "kv_transfer_params" not in json.loads(decode.body) and not exchange.on_exit(False)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_prompt_is_tokenised_once_and_the_client_sees_nothing_of_it(path: str) -> None:
    dialect = VllmDialect(tokenise_once=True)
    exchange = dialect.begin(request(path, max_tokens=9), SPLIT)
    (prefill,) = exchange.start().legs
    assert json.loads(prefill.body)["return_token_ids"] is True
    answer = json.loads(chat_answer(ticket=NIXL_TICKET).body)
    (answer if "chat" in path else answer["choices"][0])["prompt_token_ids"] = [5, 6]
    answer["choices"][0]["token_ids"] = [7]
    (decode,) = legs(exchange.on_answer(prefill, Answer(200, {}, json.dumps(answer).encode())))
    body = json.loads(decode.body)
    assert body["kv_transfer_params"] == {**NIXL_TICKET, "prompt_token_ids": [5, 6]} and "return_token_ids" not in body
    answer["choices"][0]["finish_reason"] = "stop"
    exchange = dialect.begin(request(path, max_tokens=9), SPLIT)
    step = exchange.on_answer(exchange.start().legs[0], Answer(200, {}, json.dumps(answer).encode()))
    assert isinstance(step, Reply) and b"token_ids" not in step.body
    wrong = exchange.on_answer(prefill, Answer(200, {}, b"[]"))
    assert isinstance(wrong, Failure)


def test_mooncakes_ticket_holds_the_tokens_too() -> None:
    exchange = VllmDialect("mooncake", tokenise_once=True).begin(request(max_tokens=9), SPLIT)
    prefill, ask = exchange.start().legs
    asked = json.loads(prefill.body)
    assert asked["return_token_ids"] is True and asked["kv_transfer_params"]["transfer_id"]
    exchange.on_answer(ask, ENGINES)
    (decode,) = legs(exchange.on_answer(prefill, chat_answer(prompt_token_ids=[5, 6])))
    ticket = json.loads(decode.body)["kv_transfer_params"]
    assert ticket["prompt_token_ids"] == [5, 6] and ticket["remote_engine_id"] == "e0"


@pytest.mark.parametrize("words", [10, 100_000])
def test_a_long_prompt_is_tokenised_once_too(words: int) -> None:
    client = request("/v1/completions", prompt="word " * words)
    (prefill,) = VllmDialect(tokenise_once=True).begin(client, SPLIT).start().legs
    body = json.loads(sent_body(prefill))
    assert body["return_token_ids"] is True and body["prompt"] == client.body["prompt"] and body["max_tokens"] == 1


@pytest.mark.parametrize("words", [10, 100_000])
def test_a_long_prompt_asks_for_the_connectors_own_ticket(words: int) -> None:
    client = request("/v1/completions", prompt="word " * words)
    (prefill, _) = MOONCAKE.begin(client, SPLIT).start().legs
    body = json.loads(sent_body(prefill))
    assert body["kv_transfer_params"]["transfer_id"] and body["prompt"] == client.body["prompt"]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"return_token_ids": True}),
        ("/v1/completions", {"prompt": [1, 2]}),
        ("/v1/completions", {"prompt": "x", "echo": True}),
    ],
)
def test_where_it_would_show_it_is_tokenised_twice(path: str, more: dict[str, Any]) -> None:
    exchange = VllmDialect(tokenise_once=True).begin(request(path, **more), SPLIT)
    (prefill,) = exchange.start().legs
    assert json.loads(prefill.body).get("return_token_ids") == more.get("return_token_ids")


def test_a_request_of_one_leg_is_as_ever() -> None:
    for dialect in (MOONCAKE, VllmDialect("p2p-nccl"), VllmDialect(tokenise_once=True)):
        client = request()
        (leg,) = dialect.begin(client, DIRECT).start().legs
        assert leg.body == client.raw


def test_which_dialect_knows_which_connector() -> None:
    assert dialect_for("vllm", {"u": 3}, "mooncake") == VllmDialect("mooncake", {"u": 3})
    for name, ports, connector in (("vllm", {}, "x"), ("sglang", {}, "mooncake"), ("vllm", {"u": 3}, "nixl")):
        with pytest.raises(UsageError, match=r"connector|bootstrap"):
            dialect_for(name, ports, connector)
    with pytest.raises(UsageError, match="P2P-NCCL's D is told nothing"):
        dialect_for("vllm", {}, "p2p-nccl", tokenise_once=True)
