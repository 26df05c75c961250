"""Prefill on one worker, decode on another, by hand: what a router does.

The worker that prefills also says what the answer is without a handoff.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker.conftest import VIRTUAL
from tests.integration.worker.processes import TINY, Answer, Worker, launch, topology, wait_ready, wait_until

PREFILL = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_host": None}
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
SEEDED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "top_k": 40, "seed": 77, "ignore_eos": True}


_fresh = itertools.count()


def new_prompt(length: int = 100) -> list[int]:
    """Return token ids that share no block with another prompt: nobody has them in a cache."""
    number = next(_fresh)
    return [(number >> 4 * (i % 4)) % 16 + 3 * i % 180 + 3 for i in range(length)]


def prefill_answer(worker: Worker, body: dict[str, Any], path: str = "/v1/completions") -> Answer:
    body = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    answer = worker.call(path, {**body, "max_tokens": 1, "n": 1, "kv_transfer_params": PREFILL})
    assert answer.status == 200, answer
    return answer


def ticket_of(worker: Worker, body: dict[str, Any], path: str = "/v1/completions") -> dict[str, Any]:
    ticket: dict[str, Any] = prefill_answer(worker, body, path).body["kv_transfer_params"]
    return ticket


def handed_over(prefill: Worker, decode: Worker, body: dict[str, Any], path: str = "/v1/completions") -> Answer:
    return decode.decode(body, ticket_of(prefill, body, path), path)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_the_same_answer_as_one_worker_gives(whole: Worker, decode: Worker, sampling: dict[str, Any]) -> None:
    prompt = new_prompt()
    body = {"prompt": prompt, "max_tokens": 20, "logprobs": 3, "return_token_ids": True, **sampling}
    accepted = whole.metric("tercet:handoffs_total", result="accepted")
    got, want = handed_over(whole, decode, body), whole.call("/v1/completions", body)
    assert got.status == 200, got
    assert got.choice["token_ids"] == want.choice["token_ids"]
    assert got.choice["text"] == want.choice["text"]
    assert got.choice["logprobs"]["tokens"] == want.choice["logprobs"]["tokens"]
    for field in ("token_logprobs", "top_logprobs"):
        for one, other in zip(got.choice["logprobs"][field], want.choice["logprobs"][field], strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    assert int(got.headers["x-tercet-external-tokens"]) == 100 and "x-tercet-recomputed" not in got.headers
    assert got.body["usage"] == want.body["usage"] | {
        "prompt_tokens_details": got.body["usage"]["prompt_tokens_details"]
    }
    wait_until(lambda: whole.metric("tercet:handoffs_total", result="accepted") == accepted + 1, 30, "not accepted")
    whole.wait_idle()
    decode.wait_idle()


def test_chat_streamed_with_usage(whole: Worker, decode: Worker) -> None:
    path = "/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "Hand this over"}], "max_tokens": 12, "logprobs": True, **GREEDY}
    options = {"stream_options": {"include_usage": True}}
    got = decode.events(path, decode.with_ticket({**body, **options}, ticket_of(whole, body, path)))
    want = whole.call(path, body)
    assert "".join(e["choices"][0]["delta"]["content"] for e in got[:-2]) == want.choice["message"]["content"]
    assert sum(len(e["choices"][0]["logprobs"]["content"]) for e in got[:-2]) == 12
    assert got[-2]["usage"]["completion_tokens"] == 12


def test_only_what_the_cache_lacks_is_moved(whole: Worker, decode: Worker) -> None:
    turn = {"prompt": new_prompt(64), "max_tokens": 4, **GREEDY}
    handed_over(whole, decode, turn)
    longer = {**turn, "prompt": [*turn["prompt"], *new_prompt(40)]}
    answer = handed_over(whole, decode, longer)
    assert answer.headers["x-tercet-cached-tokens"] == "64"
    assert answer.headers["x-tercet-external-tokens"] == "40"
    again = decode.call("/v1/completions", longer)
    assert int(again.headers["x-tercet-cached-tokens"]) == 96, "a decode worker serves whole requests too"


def test_usage_says_what_p_had_cached(whole: Worker, decode: Worker) -> None:
    path, body = "/v1/completions", {"prompt": new_prompt(64), "max_tokens": 4, **GREEDY}
    whole.call(path, body)  # P has all of it but the last block, D nothing
    events = decode.events(
        path, decode.with_ticket({**body, "stream_options": {"include_usage": True}}, ticket_of(whole, body, path))
    )
    assert events[-2]["usage"]["prompt_tokens_details"] == {"cached_tokens": 48}
    answer = handed_over(whole, decode, body)
    assert answer.body["usage"]["prompt_tokens_details"] == {"cached_tokens": 48}
    assert answer.headers["x-tercet-cached-tokens"] == "64", "its own, which is what its operator asks about"


def test_choices_share_one_handoff(whole: Worker, decode: Worker) -> None:
    body = {"prompt": new_prompt(), "n": 3, "max_tokens": 6, "return_token_ids": True, **SEEDED}
    accepted = whole.metric("tercet:handoffs_total", result="accepted")
    got, want = handed_over(whole, decode, body), whole.call("/v1/completions", body)
    assert [c["token_ids"] for c in got.body["choices"]] == [c["token_ids"] for c in want.body["choices"]]
    wait_until(lambda: whole.metric("tercet:handoffs_total", result="accepted") == accepted + 1, 30, "not accepted")
    decode.wait_idle()


def test_a_stop_string_in_the_first_tokens(whole: Worker, decode: Worker) -> None:
    body = {"prompt": new_prompt(), "max_tokens": 12, "return_token_ids": True, **GREEDY}
    text = whole.call("/v1/completions", body).choice["text"]
    # The stop ends in a later token than the first: D has to find it across the handoff.
    crossing = {**body, "stop": text[:8]}
    got = handed_over(whole, decode, crossing)
    assert (got.choice["text"], got.choice["stop_reason"]) == ("", text[:8])
    # It is in the first token already: P ends the answer, without a ticket.
    first = {**body, "stop": text[0]}
    released = whole.metric("tercet:handoffs_total", result="released")
    answer = prefill_answer(whole, first)
    if answer.choice["finish_reason"] == "stop":
        assert "kv_transfer_params" not in answer.body
        wait_until(lambda: whole.metric("tercet:handoffs_total", result="released") > released, 30, "never released")
    else:  # the first token is a part of a character: no stop string yet
        whole.call("/kv/release", {"ticket_id": answer.body["kv_transfer_params"]["ticket_id"]})
    whole.wait_idle()


def test_a_prefill_is_a_whole_answer_of_one_token(whole: Worker) -> None:
    body = {"prompt": new_prompt(), "max_tokens": 1, "return_token_ids": True, **GREEDY}
    want = whole.call("/v1/completions", body).choice
    # What might be the beginning of a stop string is held back in a stream, and comes out at the end.
    answer = prefill_answer(whole, {**body, "stop": want["text"] + "!"})
    assert answer.choice == {**want, "finish_reason": "length"}
    whole.call("/kv/release", {"ticket_id": answer.body["kv_transfer_params"]["ticket_id"]})
    whole.wait_idle()


def test_an_answer_that_ends_at_once_has_no_ticket(whole: Worker) -> None:
    body = {"prompt": new_prompt(), "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    (token,) = whole.call("/v1/completions", body).choice["token_ids"]
    answer = prefill_answer(whole, {**body, "stop_token_ids": [token]})
    assert (answer.choice["finish_reason"], answer.choice["stop_reason"]) == ("stop", token)
    assert "kv_transfer_params" not in answer.body
    whole.wait_idle()


def test_a_release_frees_at_once_and_the_ticket_is_recomputed(whole: Worker, decode: Worker) -> None:
    body = {"prompt": new_prompt(), "max_tokens": 10, "logprobs": 1, "return_token_ids": True, **GREEDY}
    ticket = ticket_of(whole, body)
    wait_until(lambda: whole.metric("tercet:kv_blocks_held") == 7, 30, "the ticket holds no blocks")
    whole.call("/kv/release", {"ticket_id": ticket["ticket_id"]})
    whole.wait_idle()
    recomputes = decode.metric("tercet:remote_recomputes_total")
    answer = decode.decode(body, ticket)
    assert answer.choice["token_ids"] == whole.call("/v1/completions", body).choice["token_ids"]
    assert answer.headers["x-tercet-recomputed"] == "1" and answer.headers["x-tercet-external-tokens"] == "0"
    assert len(answer.choice["logprobs"]["tokens"]) == 10
    wait_until(lambda: decode.metric("tercet:remote_recomputes_total") == recomputes + 1, 30, "not counted")
    decode.wait_idle()


def test_an_unread_ticket_expires(virtual: Worker) -> None:
    body = {"prompt": new_prompt(), "max_tokens": 5, "return_token_ids": True, **GREEDY}
    want = virtual.call("/v1/completions", body).choice["token_ids"]

    def expired() -> float:
        return virtual.metric("tercet:handoffs_total", result="expired")

    before = expired()
    ticket = ticket_of(virtual, body)
    assert ticket["lease_s"] == 1.0
    wait_until(lambda: expired() == before + 1, 30, "the lease never ended")
    virtual.wait_idle()
    late = virtual.call("/v1/completions", {**body, "kv_transfer_params": ticket})
    assert late.choice["token_ids"] == want and late.headers["x-tercet-recomputed"] == "1"


def test_tickets_that_do_not_fit(virtual: Worker, decode: Worker, whole: Worker) -> None:
    body = {"prompt": new_prompt(), "max_tokens": 5, **GREEDY}
    foreign = ticket_of(virtual, body)
    good = ticket_of(whole, body)
    for wrong in (
        foreign,
        {**good, "version": 99},
        {**good, "block_size": 32},
        {**good, "block_size": 10**30},
        {**good, "remote_block_ids": good["remote_block_ids"][1:]},
        {**good, "prompt_token_ids": [10**6, *good["prompt_token_ids"][1:]]},
        {**good, "prompt_token_ids": [-1, *good["prompt_token_ids"][1:]]},
        {**good, "first_token": {"id": 10**6, "logprob": None, "top": []}},
        {**good, "lease_s": -1},
        {"do_remote_prefill": True},
    ):
        answer = decode.decode(body, wrong)
        assert (answer.status, answer.error["code"]) == (400, "ticket_mismatch"), answer
    assert decode.complete("still alive", max_tokens=2).status == 200
    for worker, ticket in ((virtual, foreign), (whole, good)):
        worker.call("/kv/release", {"ticket_id": ticket["ticket_id"]})
        worker.wait_idle()


def test_forged_addresses_are_not_followed(whole: Worker, decode: Worker) -> None:
    body = {"prompt": new_prompt(), "max_tokens": 3, "return_token_ids": True, **GREEDY}
    ticket = ticket_of(whole, body)
    forged = {**ticket, "control": "tcp://127.0.0.1:1", "addresses": {"tcp": {"endpoint": "tcp://127.0.0.1:1"}}}
    answer = decode.decode(body, forged)
    assert answer.headers["x-tercet-recomputed"] == "1"
    assert handed_over(whole, decode, body).choice["token_ids"] == answer.choice["token_ids"]
    whole.call("/kv/release", {"ticket_id": ticket["ticket_id"]})
    whole.wait_idle()


def test_what_a_prefill_worker_refuses(prefill: Worker) -> None:
    whole_request = prefill.complete("a", max_tokens=2)
    assert whole_request.status == 400 and "prefill worker" in whole_request.error["message"]
    for field in ({"n": 2}, {"stream": True}, {"prompt": ["a", "b"]}):
        answer = prefill.call("/v1/completions", {"prompt": "a", "kv_transfer_params": PREFILL, **field})
        assert (answer.status, answer.error["param"]) == (400, "kv_transfer_params")
    prefill.wait_idle()


def test_clients_that_leave_around_a_prefill_leave_nothing(virtual: Worker) -> None:
    def counts() -> tuple[float, float, float]:
        ended = [virtual.metric("vllm:request_success_total", finished_reason=why) for why in ("abort", "length")]
        return ended[0], ended[1], virtual.metric("tercet:handoffs_total", result="expired")

    before = counts()
    for i in range(60):
        connection = virtual.open({"prompt": new_prompt(60), "max_tokens": 1, "kv_transfer_params": PREFILL})
        if i < 55:
            time.sleep(i * 0.0005)
        else:  # however slow the machine is
            connection.recv(1)
        connection.close()
    wait_until(lambda: sum(counts()[:2]) == sum(before[:2]) + 60, 30, "a request never ended")
    virtual.wait_idle()
    aborted, answered, expired = (now - then for now, then in zip(counts(), before, strict=True))
    assert aborted > 0 and answered > 0, "the delays must cover both"
    # Whoever had been sent an answer may have read it; of the others nothing waits for its lease to end.
    assert expired <= answered


def test_a_ticket_is_plain_json(whole: Worker) -> None:
    ticket = ticket_of(whole, {"prompt": new_prompt(), "max_tokens": 1})
    assert json.loads(json.dumps(ticket)) == ticket
    assert set(ticket["addresses"]) == {"shm", "tcp"}
    whole.call("/kv/release", {"ticket_id": ticket["ticket_id"]})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_prefill_engine_that_dies_or_hangs_with_the_ticket_out(
    virtual: Worker, log: Path, number: signal.Signals
) -> None:
    body = {"prompt": new_prompt(), "max_tokens": 5, "return_token_ids": True, **GREEDY}
    want = virtual.call("/v1/completions", {**body, "cache_salt": "x"}).choice["token_ids"]
    doomed = wait_ready(launch(log, *TINY, *VIRTUAL, "--stages", "prefill", "--topology-id", topology("fleet")))
    pid = int(doomed.engines()[0]["pid"])
    try:
        ticket = ticket_of(doomed, body)
        os.kill(pid, number)
        started = time.monotonic()
        answer = virtual.call("/v1/completions", {**body, "kv_transfer_params": ticket})
        assert answer.choice["token_ids"] == want and answer.headers["x-tercet-recomputed"] == "1"
        assert time.monotonic() - started < 25
    finally:
        doomed.stop()
    virtual.wait_idle()
