"""Every other path of the OpenAI API: to any ready worker, unchanged."""

from __future__ import annotations

from tercet.core.errors import RequestError
from tercet.core.route import Rank
from tercet.dialects.handoff import RANK_HEADER
from tercet.dialects.pictures import refuse_names
from tercet.dialects.request import read_body
from tercet.http.client import ClientError
from tercet.http.server import Request, Responder
from tercet.router.answer_headers import passed_through
from tercet.router.call import Suspect
from tercet.router.parts import Parts
from tercet.router.sender import unanswered

OTHER_PATHS = "/v1/{path}"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""What is passed on, and HEAD. Not TRACE: its answer would hold the workers' key."""


async def pass_through(
    parts: Parts, request: Request, responder: Responder, headers: list[tuple[str, str]], suspect: Suspect
) -> None:
    """Send a request to a ready worker and its answer back. Raises RequestError while nothing was sent."""
    if ".." in request.path.split("/"):
        raise RequestError(404, f"no such path: {request.path}")
    body, model = request.body, ""
    # As liberal as any worker may be: one of them reads what has no type as JSON, and types in any case.
    content_type = request.headers.get("content-type", "json").lower()
    if body and "json" in content_type:
        data, body = read_body(body)
        refuse_names(data)
        model = data["model"] if isinstance(data.get("model"), str) else ""
    tried: set[str] = set()
    while True:
        rank = _choose(parts, model, tried)
        parts.visits[rank.url] += 1
        try:
            await _forward(parts, request, body, rank, responder, headers)
            return
        except ClientError as error:
            suspect(rank.url)
            tried.add(rank.url)
            retry = error.before_first_byte and error.reason in ("connect", "connect_timeout")
            if responder.started or not retry or len(tried) > parts.live.max_retries:
                if responder.started:
                    responder.abort()
                    return
                raise unanswered(f"worker {rank.label}", error) from None
        finally:
            parts.visits[rank.url] -= 1


def _choose(parts: Parts, model: str, tried: set[str]) -> Rank:
    fleet = parts.fleet
    if model and fleet.known_models and model not in fleet.known_models:
        raise RequestError(404, f"model {model[:80]!r} is not served here", code="model_not_found", param="model")
    for letter in "ADP":
        ranks = [rank for rank in fleet.candidates(letter, model) if rank.url not in tried]
        if ranks:
            return min(ranks, key=lambda rank: fleet.load(rank).work)
    raise RequestError(503, "no worker is ready; try again, or see /status", code="no_worker_ready")


async def _forward(
    parts: Parts, request: Request, body: bytes, rank: Rank, responder: Responder, headers: list[tuple[str, str]]
) -> None:
    sent = list(parts.door.worker_headers(headers[0][1], request.headers))
    if rank.rank is not None:
        sent.append((RANK_HEADER, str(rank.rank)))
    sent += [(name, request.headers[name]) for name in ("content-type", "accept") if name in request.headers]
    response = await parts.client.request(
        request.method,
        rank.url + request.target,
        headers=sent,
        body=body,
        first_byte_timeout_s=parts.live.answer_timeout_s,
        idle_timeout_s=parts.live.idle_timeout_s,
    )
    own = [*headers, ("X-Tercet-Route", rank.label)]
    await response.relay(responder, headers=[*own, *passed_through(response.headers)])
