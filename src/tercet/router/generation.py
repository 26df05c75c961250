"""The data plane: requests for generation."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns

from tercet.core.errors import RequestError
from tercet.dialects.request import CHAT_PATH, ClientRequest, read_body
from tercet.http.server import Request, Responder
from tercet.router.call import Call, Suspect
from tercet.router.parts import Parts
from tercet.router.timing import Timing
from tercet.routing.facts import chat_facts, completion_facts

CLIENT_GONE = 499
BROKEN = 502


async def generate(
    parts: Parts, request: Request, responder: Responder, headers: list[tuple[str, str]], suspect: Suspect
) -> None:
    """Serve one chat or text completion. `headers` begin with X-Request-Id. Raises RequestError while nothing was
    sent."""
    mode, status = parts.fleet.mode, CLIENT_GONE
    try:
        body, raw = read_body(request.body)
        model = body.get("model")
        if model is not None and not isinstance(model, str):
            raise RequestError(400, "model must be a string", param="model")
        if not model and len(parts.fleet.known_models) > 1:
            names = ", ".join(map(repr, parts.fleet.known_models))
            raise RequestError(400, f"several models are served here: name one of {names}", param="model")
        make = chat_facts if request.path == CHAT_PATH else completion_facts
        session = request.headers.get("x-session-id")
        facts = make(body, session, parts.fleet.tokens_per_byte(model or ""))
        passed = parts.door.worker_headers(headers[0][1], request.headers)
        client_request = ClientRequest(request.path, body, raw, passed)
        timing = Timing(request.received_ns)
        call = Call(parts, client_request, facts, responder, headers, timing, suspect)
        await call.run()
        status = BROKEN if call.broken else responder.status
    except RequestError as error:
        status = error.status
        raise
    except asyncio.CancelledError:
        raise
    except Exception:
        status = 500
        raise
    finally:
        parts.metrics.finished(mode, status, (perf_counter_ns() - request.received_ns) / 1e9)
