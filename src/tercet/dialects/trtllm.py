"""The dialect of TensorRT-LLM (`trtllm-serve`): the context leg first, then the generation leg with its state.

Facts read in the sources of TensorRT-LLM 1.x (`serve/openai_disagg_service.py`, `serve/openai_protocol.py`) in 2026,
after the field `ctx_usage` came in. Its models forbid unknown fields: nothing is sent that is not in them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tercet.core.fast_json import loads_answer
from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.early_end import early_answer
from tercet.dialects.protocol import Answer, EngineState, Exchange, Headers, Leg, Legs, Reply, Step
from tercet.dialects.refusal import broken, engine_failed, gave_up, merged_reply, no_encoders, refused
from tercet.dialects.request import ClientRequest, dump
from tercet.dialects.usage import CACHED, failed, prompt_details

PARAMS = "disaggregated_params"
UNFINISHED = ("length", "not_finished")
"""A context leg that ends otherwise has said all there is to say."""

CONTEXT_FIRST = 0
"""`DisaggScheduleStyle.CONTEXT_FIRST`."""

FIRST_ID, LAST_ID = 2**42, 2**63
"""Ids below are the workers' own (`MIN_GLOBAL_ID`: 2**40 or 2**42, by version); ids are positive int64."""


def random_id() -> int:
    """Return a request id that no other request has, with any router."""
    return FIRST_ID + secrets.randbelow(LAST_ID - FIRST_ID)


@dataclass(frozen=True, slots=True)
class TrtllmDialect:
    """A generation worker serves whole requests too, when they carry no `disaggregated_params`.

    Which rank takes a request is the worker's own choice: its HTTP API has no field for it. The context worker says
    which one it was (`ctx_dp_rank`) and the generation worker is told. No path that empties a prefix cache was found
    there: asking for that is answered 404.
    """

    request_id: Callable[[], int] = random_id
    name: str = "trtllm"
    ready_path: str = "/health"
    reset_path: str = "/reset_prefix_cache"
    kv_use: tuple[str, str] | None = None
    decode_alone: bool = True
    encodes: bool = False
    one_choice: bool = True
    rank_match: str = "any"

    def prove_encoder(self, picture: str, rank: Rank, headers: Headers) -> Exchange:
        """Raise RequestError 501: no encode worker is spoken to in this dialect."""
        raise no_encoders(self.name)

    def begin(self, request: ClientRequest, route: Route) -> TrtllmExchange:
        """Return the state machine of one request on one route."""
        return TrtllmExchange(request, route, self.request_id)

    def engines(self, ready_answer: bytes) -> tuple[EngineState, ...]:
        """Return nothing: /health has no body."""
        return ()


class TrtllmExchange:
    """One request on one route, with or without a context leg.

    There is no word for a release: a context worker drops what nobody fetched after its own `kv_transfer_timeout_ms`.
    So an answer of one token goes to the generation worker too, which says the same and frees the context's blocks.
    """

    def __init__(self, request: ClientRequest, route: Route, request_id: Callable[[], int]) -> None:
        self._request, self._route, self._request_id = request, route, request_id
        self._id = 0
        self._details: dict[str, int] = {}

    def start(self) -> Legs:
        """Return the context leg, or the only leg when one worker does it all.

        A context worker hands on one choice only: more are for the generation worker alone. One that is asked alone
        (a probe) answers the whole request, so that it holds nothing afterwards.
        """
        request, prefill, decode = self._request, self._route.prefill, self._route.decode
        if prefill is None or prefill is decode or not request.one_choice:
            return Legs((self._generation_leg(request.raw),))
        self._id = self._request_id()
        body = {key: value for key, value in request.body.items() if key != "stream_options"}
        body["stream"] = False
        body[PARAMS] = {"request_type": "context_only", "disagg_request_id": self._id}
        return Legs((Leg(Stage.PREFILL, prefill, request.path, _headers(request), dump(body)),))

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take the context's answer, or the generation's when it is not streamed or an error."""
        if answer.status != 200:
            return refused(leg, answer)
        if failed(answer.body):
            return gave_up(leg, answer.body)
        if leg.stage is Stage.PREFILL:
            return self._context_done(leg, answer)
        return merged_reply(leg, answer, self._details)

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return nothing: these workers name no pictures."""
        return {}

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return nothing."""
        return ()

    def _context_done(self, leg: Leg, answer: Answer) -> Step:
        try:
            data = loads_answer(answer.body)
            (choice,) = data["choices"]
            finish, params = choice["finish_reason"], choice.get(PARAMS)
        except (ValueError, LookupError, TypeError, AttributeError):
            return broken(leg, "its answer to a context request is no OpenAI answer with one choice")
        if finish in ("cancelled", "timeout"):
            return engine_failed(leg, f'finish_reason "{finish}"')
        if finish not in UNFINISHED:
            return self._early(leg, data)
        if not isinstance(params, dict) or params.get("ctx_request_id") is None:
            return broken(leg, f"its answer holds no {PARAMS} with a ctx_request_id")
        ids = data.get("prompt_token_ids")
        if not isinstance(ids, list) or not ids:
            return broken(leg, "its answer holds no prompt_token_ids")
        handed_on = {**params, "request_type": "generation_only", "disagg_request_id": self._id}
        # Fields that came in later: a worker that does not know them refuses them, one that does names them.
        if "schedule_style" in params:
            handed_on["schedule_style"] = CONTEXT_FIRST
        if "ctx_usage" in params:
            handed_on["ctx_usage"] = data.get("usage")  # the generation worker's usage then says what was cached
        self._details = prompt_details(data.get("usage"), (CACHED,) if "ctx_usage" in params else ())
        request = self._request
        body = {**request.body, PARAMS: handed_on, "prompt_token_ids" if request.chat else "prompt": ids}
        return Legs((self._generation_leg(dump(body), self._details if request.include_usage else {}),))

    def _early(self, leg: Leg, data: dict[str, Any]) -> Step:
        for field in ("prompt_token_ids", "prompt_token_ids_b64"):
            data.pop(field, None)
        data["choices"][0].pop(PARAMS, None)
        try:
            return Reply(200, *early_answer(data, self._request), early=True)
        except (ValueError, TypeError, AttributeError):
            return broken(leg, "its answer to a context request is no OpenAI answer")

    def _generation_leg(self, body: bytes, details: Mapping[str, int] | None = None) -> Leg:
        request, rank = self._request, self._route.decode
        return Leg(
            Stage.DECODE, rank, request.path, _headers(request), body, request.stream, usage_details=details or {}
        )


def _headers(request: ClientRequest) -> Headers:
    return (("Content-Type", "application/json"), *request.headers)
