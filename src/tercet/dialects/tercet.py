"""The dialect of the built-in engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tercet.core.build import EngineBuild
from tercet.core.fast_json import loads_answer
from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.handoff import HandoffExchange, leg_headers
from tercet.dialects.protocol import EngineState, Headers, Leg
from tercet.dialects.request import ClientRequest, dump
from tercet.dialects.tercet_encode import TercetEncodeExchange, TercetEncodeProbe

RELEASE_PATH = "/kv/release"


@dataclass(frozen=True, slots=True)
class TercetDialect:
    """Tickets name themselves; P is told to let go of one by its id."""

    name: str = "tercet"
    ready_path: str = "/ready"
    reset_path: str = "/cache/reset"
    kv_use: tuple[str, str] | None = ("vllm:kv_cache_usage_perc", "rank")
    decode_alone: bool = True
    encodes: bool = True
    one_choice: bool = False
    rank_match: str = "any"

    def prove_encoder(self, picture: str, rank: Rank, headers: Headers) -> TercetEncodeProbe:
        """Return the state machine that has one picture, a data URI, encoded as a proof of life."""
        return TercetEncodeProbe(picture, rank, headers)

    def begin(self, request: ClientRequest, route: Route) -> HandoffExchange | TercetEncodeExchange:
        """Return the state machine of one request on one route."""
        if request.pictures is not None:
            return TercetEncodeExchange(request, route, release)
        return HandoffExchange(request, route, release)

    def engines(self, ready_answer: bytes) -> tuple[EngineState, ...]:
        """Read the `engines` of a front's answer to /ready; empty when there are none."""
        try:
            return tuple(_state(engine) for engine in loads_answer(ready_answer)["engines"])
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            return ()


def _state(engine: dict[str, Any]) -> EngineState:
    engine_id, kv_tokens, embedding_tokens = (
        engine["engine_id"],
        engine.get("kv_tokens"),
        engine.get("embedding_tokens"),
    )
    return EngineState(
        int(engine["rank"]),
        None if engine_id is None else str(engine_id),
        bool(engine["ready"]),
        kv_tokens if isinstance(kv_tokens, int) and kv_tokens > 0 else None,
        embedding_tokens if isinstance(embedding_tokens, int) and embedding_tokens >= 0 else None,
        EngineBuild.from_dict(engine.get("build")),
    )


def release(request: ClientRequest, route: Route, ticket: dict[str, Any]) -> tuple[Leg, ...]:
    """Return the request that frees a ticket's blocks on P at once."""
    if route.prefill is None or "ticket_id" not in ticket:
        return ()
    body = dump({"ticket_id": ticket["ticket_id"]})
    return (Leg(Stage.PREFILL, route.prefill, RELEASE_PATH, leg_headers(request, route.prefill), body),)
