"""Requests, routes and answers as the engines write them."""

from __future__ import annotations

import json
from typing import Any

from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.dialects.protocol import Answer, Exchange, Leg
from tercet.dialects.request import ClientRequest, dump, read_body

P = Rank("P", 0, "http://p:1")
D = Rank("D", 1, "http://d:1", 3)
SPLIT = Route(Mode.PD, D, P)
DIRECT = Route(Mode.PPD, D)

TICKET = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "version": 2,
    "ticket_id": "ticket-1",
    "remote_engine_id": "e",
    "remote_block_ids": [4, 7],
    "prompt_token_ids": [1, 2, 3],
}
NIXL_TICKET = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[1, 2, 3]],
    "remote_engine_id": "0f0e",
    "remote_request_id": "cmpl-1",
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
    "tp_size": 1,
}


def request(path: str = "/v1/chat/completions", **body: Any) -> ClientRequest:
    data = {"model": "m", **body}
    if path.endswith("chat/completions"):
        data.setdefault("messages", [{"role": "user", "content": "hi"}])
    else:
        data.setdefault("prompt", "hi")
    parsed, raw = read_body(dump(data))
    return ClientRequest(path, parsed, raw, (("X-Request-Id", "r1"),))


def chat_answer(finish: str = "length", ticket: dict[str, Any] | None = None, **extra: Any) -> Answer:
    data = {
        "id": "r1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 1,
            "total_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
        **extra,
    }
    if ticket is not None:
        data["kv_transfer_params"] = ticket
    return Answer(200, {"content-type": "application/json"}, json.dumps(data).encode())


def only_leg(exchange: Exchange) -> Leg:
    legs = exchange.start().legs
    assert len(legs) == 1
    return legs[0]


def sent_body(leg: Leg) -> bytes:
    """Return a leg's body as it is sent."""
    body = leg.make() if leg.make else leg.body
    return body if isinstance(body, bytes) else b"".join(body)
