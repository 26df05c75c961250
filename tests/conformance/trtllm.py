"""A stand-in for `trtllm-serve`, context and generation servers, after the sources of TensorRT-LLM 1.x in 2026.

`OpenAIBaseModel` forbids unknown fields, its types are checked; `_verify_ctx_response` and `_get_gen_request` of
openai_disagg_service.py say what each leg must hold; a context's blocks stay until a generation server fetched them.

Stricter than the engine: a generation leg without the context's token ids would be tokenised once more there, and one
with another's state would answer nonsense.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tercet.http.server import Request, Responder
from tests.conformance.engine import Engine, Refused, limit_of, logprobs, send, usage, words_of

SAMPLING = {
    *("frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "echo"),
    *("seed", "stop", "stream", "stream_options", "temperature", "top_p", "best_of", "priority"),
    *("user", "lora_request", "prompt_ignore_length", "use_beam_search", "top_k", "top_p_min", "min_p"),
    *("repetition_penalty", "length_penalty", "early_stopping", "stop_token_ids", "include_stop_str_in_output"),
    *("ignore_eos", "min_tokens", "skip_special_tokens", "spaces_between_special_tokens", "truncate_prompt_tokens"),
    *("thinking_token_budget", "add_special_tokens", "response_format", "disaggregated_params", "conversation_params"),
}
COMPLETION = {"model", "prompt", "suffix", "return_context_logits", "detokenize", *SAMPLING}
CHAT = {
    *("model", "messages", "prompt_token_ids", "max_completion_tokens", "top_logprobs", "tools", "tool_choice"),
    *("parallel_tool_calls", "chat_template", "chat_template_kwargs", "add_generation_prompt", "documents"),
    *("reasoning_effort", "mm_processor_kwargs", "media_io_kwargs", "cache_salt", "agent_hierarchy", "thinking"),
    *("prompt_token_ids_b64", "injected_chat_template_kwargs"),
    *SAMPLING,
}


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is list and all(type(item) is kind for item in value)


def _base64(value: Any) -> bool:
    try:
        return type(value) is str and base64.b64decode(value, validate=True) != b""
    except binascii.Error:
        return False


OLD_PARAMS: dict[str, Callable[[Any], bool]] = {
    "request_type": lambda value: value in ("context_only", "generation_only"),
    "first_gen_tokens": _list_of(int),
    "ctx_request_id": _is(int),
    "encoded_opaque_state": _base64,
    "draft_tokens": _list_of(int),
    "disagg_request_id": lambda value: type(value) is int and 2**42 <= value < 2**63,
    "ctx_dp_rank": _is(int),
    "ctx_info_endpoint": _is(str),
}
"""`DisaggregatedParams` by field. `context_and_generation`, which the engine knows too, is one leg and no handoff."""
NEW_PARAMS: dict[str, Callable[[Any], bool]] = {
    **OLD_PARAMS,
    "schedule_style": lambda value: value in (0, 1),
    "ctx_usage": lambda value: type(value) is dict and type(value.get("prompt_tokens")) is int,
    "first_gen_log_probs": _is(list),
    "first_gen_logits": _is(list),
    "return_prompt_token_ids_b64": _is(bool),
    "resolved_thinking": _is(bool),
}
CONTEXT_NEEDS = ("request_type", "disagg_request_id")
GENERATION_NEEDS = (*CONTEXT_NEEDS, "ctx_request_id", "encoded_opaque_state", "first_gen_tokens")


@dataclass
class Held:
    """What the context servers of one test hold, by ctx_request_id: the prompt's ids, and what they said."""

    states: dict[int, tuple[list[int], dict[str, Any]]] = field(default_factory=dict)


class TrtllmServer(Engine):
    """One `trtllm-serve`. `old` knows neither ctx_usage nor schedule_style. `rank` is the one that takes requests."""

    def __init__(self, role: str, held: Held, *, old: bool = False, rank: int = 0) -> None:
        super().__init__(role)
        self.held, self.old, self.rank = held, old, rank
        self.loses_blocks = False  # the transfer of a context's blocks fails

    async def serve(self, request: Request, body: dict[str, Any], responder: Responder) -> None:
        chat = request.path.endswith("chat/completions")
        if unknown := body.keys() - (CHAT if chat else COMPLETION):
            raise self.fault(f"Extra inputs are not permitted: {sorted(unknown)}")
        if body.get("stream_options") and not body.get("stream"):
            raise self.fault("Stream options can only be defined when stream is true.")
        params = body.get("disaggregated_params")
        if params is None:
            if chat and "prompt_token_ids" in body:
                raise self.fault("prompt_token_ids of whose making?")
            await self.answer(request, body, words_of(body), responder, limit_of(body), cached=self.cached)
            return
        self._check(params)
        if params["request_type"] == "context_only":
            await self._context(chat, body, params, responder)
        else:
            await self._generation(request, chat, body, params, responder)

    def _check(self, params: dict[str, Any]) -> None:
        known = OLD_PARAMS if self.old else NEW_PARAMS
        if unknown := params.keys() - known:
            raise self.fault(f"Extra inputs are not permitted: disaggregated_params {sorted(unknown)}")
        for name in GENERATION_NEEDS if params.get("request_type") == "generation_only" else CONTEXT_NEEDS:
            if params.get(name) is None:
                raise self.fault(f"disaggregated_params without {name}")
        for name, value in params.items():
            if value is not None and not known[name](value):
                raise self.fault(f"disaggregated_params.{name}={value!r}")

    async def _context(self, chat: bool, body: dict[str, Any], params: dict[str, Any], responder: Responder) -> None:
        if self.role != "P":
            raise self.fault("a context request at a generation server")
        unique = params["disagg_request_id"]
        if unique in self.held.states:
            raise self.fault(f"disagg_request_id {unique} is used twice")
        if body.get("stream") or (body.get("n") or 1) != 1 or params.keys() != set(CONTEXT_NEEDS):
            raise self.fault(f"a context request is not streamed, has one choice, and knows nothing: {body}")
        words = words_of(body)
        text, ids = f"w{len(words)}", list(range(100, 100 + len(words)))
        finish = self.finish if self.finish != "length" else "not_finished" if limit_of(body) > 1 else "length"
        said: dict[str, Any] = {
            **dict.fromkeys(OLD_PARAMS if self.old else NEW_PARAMS),
            "request_type": "context_only",
            "ctx_request_id": unique,
            "disagg_request_id": unique,
            "first_gen_tokens": [len(words)],
            "encoded_opaque_state": base64.b64encode(secrets.token_bytes(12)).decode(),
            "ctx_dp_rank": self.rank,
        }
        if not self.old:
            said["return_prompt_token_ids_b64"] = False
            if body.get("logprobs"):
                said["first_gen_log_probs"] = [[{"token_id": len(words), "logprob": -len(words) / 64}]]
        if finish in ("not_finished", "length"):
            self.held.states[unique] = ids, said
        content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        content |= logprobs(body, chat, [text], len(words))
        answer = {
            "id": "x",
            "object": "chat.completion" if chat else "text_completion",
            "model": "m",
            "choices": [{"index": 0, **content, "finish_reason": finish, "disaggregated_params": said}],
            "usage": usage(len(words), 1, self.cached),
            "prompt_token_ids": ids,
            **({} if self.old else {"prompt_token_ids_b64": None}),
        }
        await send(responder, answer)

    async def _generation(
        self, request: Request, chat: bool, body: dict[str, Any], params: dict[str, Any], responder: Responder
    ) -> None:
        if self.role != "D":
            raise self.fault("a generation request at a context server")
        found = self.held.states.get(params["ctx_request_id"])
        if found is None:
            raise Refused(500, "no such context request", "InternalServerError")
        ids, said = found
        mine = {"request_type", "schedule_style", "ctx_usage"}
        changed = [key for key in said if key not in mine and params.get(key) != said[key]]
        if changed or params["disagg_request_id"] != params["ctx_request_id"]:
            raise self.fault(f"the context's state was changed: {changed}")
        if (body.get("prompt_token_ids") if chat else body["prompt"]) != ids:
            raise self.fault("the prompt is not the context's prompt_token_ids")
        if body.get("echo") or body.get("return_context_logits"):
            raise self.fault("of the prompt it has neither the text nor the logits")
        counted = params.get("ctx_usage")
        if not self.old and (counted is None or counted.get("prompt_tokens") != len(ids)):
            raise self.fault(f"ctx_usage {counted}")
        if not self.old and body.get("logprobs") and not params.get("first_gen_log_probs"):
            raise self.fault("logprobs without those of the first token")
        del self.held.states[params["ctx_request_id"]]
        if self.loses_blocks:
            raise Refused(500, "KV cache transfer failed", "InternalServerError")
        cached = counted["prompt_tokens_details"]["cached_tokens"] if counted else 0
        await self.answer(request, body, [str(i) for i in ids], responder, limit_of(body), cached=cached)
