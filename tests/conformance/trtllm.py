"""A stand-in for `trtllm-serve`, context and generation servers, after the sources of TensorRT-LLM 1.x in 2026.

`OpenAIBaseModel` forbids unknown fields; `_verify_ctx_response` and `_get_gen_request` of openai_disagg_service.py say
what each leg must hold; a context's blocks stay until a generation server fetched them.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import Any

from tercet.http.server import Request, Responder
from tests.conformance.engine import Engine, Refused, limit_of, send, usage, words_of

SAMPLING = {
    *("frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty"),
    *("seed", "stop", "stream", "stream_options", "temperature", "top_p"),
    *("user", "lora_request", "prompt_ignore_length", "use_beam_search", "top_k", "top_p_min"),
    *(
        "min_p",
        "repetition_penalty",
        "length_penalty",
        "early_stopping",
        "stop_token_ids",
        "include_stop_str_in_output",
    ),
    *(
        "ignore_eos",
        "min_tokens",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "truncate_prompt_tokens",
        "return_context_logits",
    ),
    *(
        "detokenize",
        "thinking_token_budget",
        "add_special_tokens",
        "response_format",
        "disaggregated_params",
        "priority",
    ),
    *("conversation_params", "best_of"),
}
COMPLETION = {"model", "prompt", "echo", "suffix", *SAMPLING}
CHAT = {
    *("model", "messages", "prompt_token_ids", "max_completion_tokens", "top_logprobs", "tools", "tool_choice"),
    *("parallel_tool_calls", "chat_template", "chat_template_kwargs", "add_generation_prompt", "documents"),
    *("reasoning_effort", "mm_processor_kwargs", "media_io_kwargs", "cache_salt", "agent_hierarchy"),
    *SAMPLING,
}
OLD_PARAMS = {
    *("request_type", "first_gen_tokens", "ctx_request_id", "encoded_opaque_state", "draft_tokens"),
    *("disagg_request_id", "ctx_dp_rank", "ctx_info_endpoint"),
}
NEW_PARAMS = OLD_PARAMS | {"schedule_style", "ctx_usage", "first_gen_log_probs", "first_gen_logits"}


@dataclass
class Held:
    """What the context servers of one test hold, by ctx_request_id: the prompt's ids, and what they said."""

    states: dict[int, tuple[list[int], dict[str, Any]]] = field(default_factory=dict)


class TrtllmServer(Engine):
    """One `trtllm-serve`. `old` knows neither ctx_usage nor schedule_style. `rank` is the one that takes requests."""

    def __init__(self, role: str, held: Held, *, old: bool = False, rank: int = 0) -> None:
        super().__init__(role)
        self.held, self.old, self.rank = held, old, rank

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
        if unknown := params.keys() - (OLD_PARAMS if self.old else NEW_PARAMS):
            raise self.fault(f"Extra inputs are not permitted: disaggregated_params {sorted(unknown)}")
        if params.get("request_type") == "context_only":
            await self._context(chat, body, params, responder)
        elif params.get("request_type") == "generation_only":
            await self._generation(request, chat, body, params, responder)
        else:
            raise self.fault(f"unknown request_type {params.get('request_type')!r}")

    async def _context(self, chat: bool, body: dict[str, Any], params: dict[str, Any], responder: Responder) -> None:
        if self.role != "P":
            raise self.fault("a context request at a generation server")
        unique = params.get("disagg_request_id")
        if type(unique) is not int or not 2**42 <= unique < 2**63:
            raise self.fault(f"disagg_request_id {unique!r}")
        if body.get("stream") or (body.get("n") or 1) != 1 or params.keys() != {"request_type", "disagg_request_id"}:
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
        if finish in ("not_finished", "length"):
            self.held.states[unique] = ids, said
        content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
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
        found = self.held.states.get(params.get("ctx_request_id", 0))
        if found is None:
            raise Refused(500, "no such context request", "InternalServerError")
        ids, said = found
        mine = {"request_type", "schedule_style", "ctx_usage"}
        changed = [key for key in said if key not in mine and params.get(key) != said[key]]
        if changed or params["disagg_request_id"] != params["ctx_request_id"]:
            raise self.fault(f"the context's state was changed: {changed}")
        if (body.get("prompt_token_ids") if chat else body["prompt"]) != ids:
            raise self.fault("the prompt is not the context's prompt_token_ids")
        counted = params.get("ctx_usage")
        if not self.old and (counted is None or counted.get("prompt_tokens") != len(ids)):
            raise self.fault(f"ctx_usage {counted}")
        del self.held.states[params["ctx_request_id"]]
        cached = counted["prompt_tokens_details"]["cached_tokens"] if counted else 0
        await self.answer(request, body, [str(i) for i in ids], responder, limit_of(body), cached=cached)
