"""The dialect of vLLM: whole requests, prefill handed to decode by its NIXL connector, encode legs before either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tercet.core.choices import wants_several
from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.handoff import HandoffExchange, leg_headers
from tercet.dialects.protocol import EngineState, Exchange, Headers, Leg
from tercet.dialects.refusal import no_choices
from tercet.dialects.request import COMPLETIONS_PATH, ClientRequest, dump
from tercet.dialects.vllm_connectors import TokenisedOnce, connected, tokenises_once
from tercet.dialects.vllm_encode import VllmEncodeExchange, VllmEncodeProbe

NO_SUCH_MODEL = "tercet-release"


@dataclass(frozen=True, slots=True)
class VllmDialect:
    """vLLM has no word for a release: D tells P to free what a request names that D refuses, and so frees what we
    name. `connector` hands KV on; `ports` are its workers' bootstrap or KV ports by URL, where they differ from the
    default. `tokenise_once` has D take the prompt's tokens from P."""

    connector: str = "nixl"
    ports: Mapping[str, int] = field(default_factory=dict)
    tokenise_once: bool = False
    name: str = "vllm"
    ready_path: str = "/health"
    reset_path: str = "/reset_prefix_cache"
    kv_use: tuple[str, str] | None = ("vllm:kv_cache_usage_perc", "engine")
    encodes: bool = True
    one_choice: bool = True

    @property
    def decode_alone(self) -> bool:
        """False for P2P-NCCL, whose consumer waits for P's push whatever it is asked."""
        return self.connector != "p2p-nccl"

    @property
    def rank_match(self) -> str:
        """Return exact for P2P-NCCL, whose ranks look for their peer at its port plus their own number; NIXL's and
        Mooncake's tickets name the engine."""
        return "exact" if self.connector == "p2p-nccl" else "any"

    def prove_encoder(self, picture: str, rank: Rank, headers: Headers) -> VllmEncodeProbe:
        """Return the state machine that has one picture, a data URI, encoded as a proof of life."""
        return VllmEncodeProbe(picture, rank, headers)

    def begin(self, request: ClientRequest, route: Route) -> Exchange:
        """Return the state machine of one request on one route. A prefill worker proves itself by a whole answer: what
        it held for a peer that never comes would stay until its lease ends. Several answers to a prompt are D's alone:
        each would draw P's blocks for itself, and P frees them when the first has. Raises RequestError 400 for them
        where D can't: P2P-NCCL's would wait for ever for what P pushed under the name of the only one it knew.
        """
        proof = route.prefill is route.decode
        if self.decode_alone and (proof or not request.one_choice):
            route = replace(route, prefill=None)
        elif wants_several(request.body) and route.prefill is not None and not proof:
            raise no_choices("vLLM with P2P-NCCL")
        inner: Exchange
        if request.pictures is not None:
            inner = VllmEncodeExchange(request, route, release)
        else:
            inner = HandoffExchange(request, route, release)
            if self.tokenise_once and route.prefill is not None and tokenises_once(request):
                inner = TokenisedOnce(inner)  # sees the ticket that the connector makes
        return connected(inner, self.connector, self.ports, route)

    def engines(self, ready_answer: bytes) -> tuple[EngineState, ...]:
        """Return nothing: /health has no body."""
        return ()


def release(request: ClientRequest, route: Route, ticket: dict[str, Any]) -> tuple[Leg, ...]:
    """Return a request that D refuses (404, unknown model), upon which it tells P to free the ticket's blocks, and one
    of a token that makes D's engine step: an idle one would hold the notice back until P's lease (30 s) ends.
    """
    if not ticket.get("do_remote_prefill"):
        return ()
    refused = {"model": NO_SUCH_MODEL, "prompt": "x", "max_tokens": 1, "kv_transfer_params": ticket}
    nudge = {"model": request.body.get("model"), "prompt": "x", "max_tokens": 1}
    headers = leg_headers(request, route.decode)
    return tuple(Leg(Stage.DECODE, route.decode, COMPLETIONS_PATH, headers, dump(body)) for body in (refused, nudge))
