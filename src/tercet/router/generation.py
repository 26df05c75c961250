"""The data plane: requests for generation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

from tercet.core.api_keys import ApiKey
from tercet.core.errors import RequestError
from tercet.core.fast_json import LONG_BYTES
from tercet.dialects.pictures import Pictures, find_pictures
from tercet.dialects.request import CHAT_PATH, ClientRequest, read_body, refuse_crowd
from tercet.http.server import Request, Responder
from tercet.router.account import LATER, Account
from tercet.router.call import Call, Suspect
from tercet.router.gate import Gate
from tercet.router.parts import Parts
from tercet.router.pictures import picture_keys
from tercet.router.quota import Quota
from tercet.routing.admission import asked_priority
from tercet.routing.facts import RequestFacts, chat_facts, completion_facts

PRIORITY_HEADER = "x-tercet-priority"
CLIENT_GONE = 499
BROKEN = 502
MOST_TOKENS = 1 << 24
"""More than any answer has. A client may ask for a number that nothing can be subtracted from."""
UNASKED_TOKENS = 512
"""What an answer is taken for that broke off and had no limit of its own."""


async def generate(
    parts: Parts,
    request: Request,
    responder: Responder,
    headers: list[tuple[str, str]],
    suspect: Suspect,
    key: ApiKey | None = None,
) -> None:
    """Serve one chat or text completion, asked for with `key`. `headers` begin with X-Request-Id. Raises RequestError
    while nothing was sent."""
    status, spent = CLIENT_GONE, 0
    gate: Gate | None = None
    fleet, door, tracing = parts.fleet, parts.door, parts.tracing
    account = Account(headers[0][1], fleet.mode, request.received_ns, request.headers)
    span = None if tracing is None else tracing.begin(request)
    quota: Quota | None = None
    try:
        if key is not None:
            account.key = key.name
            quota = door.enter(key)
        body, raw = read_body(request.body)
        request.body = b""  # whoever keeps it from here on can let go of it
        model = body.get("model")
        if model is not None and not isinstance(model, str):
            raise RequestError(400, "model must be a string", param="model")
        if not model:
            model = ""
            if len(fleet.known_models) > 1:
                names = ", ".join(map(repr, fleet.known_models))
                raise RequestError(400, f"several models are served here: name one of {names}", param="model")
        account.model = model
        passed = door.worker_headers(headers[0][1], request.headers)
        if tracing is not None and span is not None:
            passed = tracing.worker_headers(span, passed)
        if len(raw) > LONG_BYTES and request.path == CHAT_PATH:
            refuse_crowd(body)
        places = find_pictures(body, parts.config.max_images) if request.path == CHAT_PATH else ()
        apart = bool(places) and parts.dialect.encodes
        if apart:
            raw = b""  # the pictures are kept once
        keys = await picture_keys(body, places) if places else ()
        facts = account.facts = _facts(parts, request, body, model, keys)
        if facts.later_turn:
            account.turn = LATER
        pictures = Pictures(body, places, keys) if apart else None
        client_request = ClientRequest(request.path, body, raw, passed, pictures)
        del raw, body
        account.stream = client_request.stream
        waits_at = parts.gates.of(model)
        if not waits_at.admit():
            began_ns = perf_counter_ns()
            await waits_at.enter(*_standing(parts, request, key), parts.live.queue_timeout_s)
            account.timing.waited(began_ns, perf_counter_ns())
        gate = waits_at
        call = Call(parts, client_request, facts, responder, headers, account, suspect)
        if quota is not None:
            spent = _at_most(client_request, facts)
        await call.run()
        spent = call.tokens
        status = BROKEN if call.broken else responder.status
    except RequestError as error:
        status, spent, account.error = error.status, 0, error.code or "invalid_request"
        raise
    except asyncio.CancelledError:
        account.error = "client_gone"
        raise
    except RecursionError:
        # What could just be parsed is looked through once more, from deeper down.
        status, spent, account.error = 400, 0, "invalid_json"
        raise RequestError(400, "the request body is nested too deeply", code="invalid_json") from None
    except Exception:
        status, account.error = 500, "internal_error"
        raise
    finally:
        if gate is not None:
            gate.leave()
        if quota is not None:
            quota.leave(spent)
        account.end(status)
        account.let_go()
        parts.recent.add(account)
        parts.metrics.ended(account)
        if parts.log is not None:
            parts.log.ended(account.record())
        if tracing is not None and span is not None:
            tracing.end(span, account.record())


def _standing(parts: Parts, request: Request, key: ApiKey | None) -> tuple[str, int]:
    """Return whose request it is, and how urgent."""
    allowed = parts.config.priority_header if key is None else key.priority
    return "" if key is None else key.digest, asked_priority(request.headers.get(PRIORITY_HEADER), allowed=allowed)


def _at_most(request: ClientRequest, facts: RequestFacts) -> int:
    """Return the tokens that are charged where nobody will know: leaving just before the end must not be free."""
    limit = request.max_tokens
    answer = limit if isinstance(limit, int) and limit > 0 else UNASKED_TOKENS
    return facts.prompt_tokens + min(answer * request.choices, MOST_TOKENS)


def _facts(
    parts: Parts, request: Request, body: dict[str, Any], model: str, keys: Sequence[str | None]
) -> RequestFacts:
    session, tokens_per_byte = request.headers.get("x-session-id"), parts.fleet.tokens_per_byte(model)
    if request.path != CHAT_PATH:
        return completion_facts(body, session, tokens_per_byte)
    known = parts.fleet.picture_tokens

    def tokens_of(key: str | None) -> int:
        return (None if key is None else known.of(model, key)) or known.typical(model)

    return chat_facts(body, session, tokens_per_byte, keys, tokens_of)
