"""Writes OpenAI answers: whole objects and streamed chunks, in the shapes of vLLM 0.32."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

from tercet.core.errors import RequestError
from tercet.text.tokenizer import Tokenizer
from tercet.worker.choice import Choice, Piece, chat_logprobs, completion_logprobs
from tercet.worker.openai_request import Generation
from tercet.worker.wire import Refusal

DONE = b"data: [DONE]\n\n"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class AnswerWriter:
    """Writes the answer to one request.

    Most of a stream is chunks that differ in nothing but a few characters of text: what stands before and after them
    is made once, so that such a chunk costs the encoding of a short string.
    """

    def __init__(self, request_id: str, model: str, generation: Generation, tokenizer: Tokenizer) -> None:
        self._generation, self._tokenizer = generation, tokenizer
        self._head = {"id": request_id, "created": int(time.time()), "model": model}
        self._kind = "chat.completion.chunk" if generation.chat else "text_completion"
        # Everything up to a choice's index, and from there to its text.
        start = _encode({**self._head, "object": self._kind, "choices": []}).removesuffix("]}")
        field = '"delta":{"content":' if generation.chat else '"text":'
        self._before = [f'data: {start}{{"index":{i},{field}' for i in range(generation.choices)]
        self._after = ("}" if generation.chat else "") + ',"logprobs":null,"finish_reason":null'
        self._uniform = generation.sampling.logprobs is None and not generation.continuous_usage
        self._cached: dict[int, int] = {}

    def cached(self, choice: Choice, tokens: int) -> None:
        """Note what a choice found in the prefix cache. A prompt's usage is that of its first choice to start."""
        self._cached.setdefault(choice.index // self._generation.n, tokens)

    def usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the usage object over `choices`."""
        prompts = {choice.index // self._generation.n: choice.prompt for choice in choices}
        prompt = sum(len(tokens) for tokens in prompts.values())
        completion = sum(len(choice.tokens) for choice in choices)
        details = {"cached_tokens": sum(self._cached.get(prompt, 0) for prompt in prompts)}
        if self._generation.images:
            details["image_tokens"] = self._generation.image_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": details,
        }

    def whole(self, choices: Sequence[Choice], ticket: dict[str, Any] | None = None) -> bytes:
        """Return the complete, non-streamed answer."""
        g = self._generation
        answer: dict[str, Any] = {**self._head, "object": "chat.completion" if g.chat else "text_completion"}
        answer["choices"] = [self._whole_choice(choice) for choice in choices]
        answer["usage"] = self.usage(choices)
        if g.return_token_ids and g.chat:
            answer["prompt_token_ids"] = g.prompts[0]
        if ticket is not None:
            answer["kv_transfer_params"] = ticket
        return _encode(answer).encode()

    def chunk(self, choice: Choice, piece: Piece) -> bytes:
        """Return the server-sent event for one piece."""
        if piece.first or piece.finish_reason is not None or not self._uniform:
            return self._full_chunk(choice, piece)
        ids = f',"token_ids":{piece.tokens}' if self._generation.return_token_ids else ""
        return f"{self._before[choice.index]}{encode_basestring(piece.text)}{self._after}{ids}}}]}}\n\n".encode()

    def usage_chunk(self, choices: Sequence[Choice]) -> bytes:
        """Return the last event before [DONE] when the client asked for usage."""
        return _event({**self._head, "object": self._kind, "choices": [], "usage": self.usage(choices)})

    @staticmethod
    def error_chunk(refusal: Refusal) -> bytes:
        """Return the event that says why a stream broke after its first byte."""
        return _event(RequestError(refusal.status, refusal.message, code=refusal.code, param=refusal.param).body())

    def _full_chunk(self, choice: Choice, piece: Piece) -> bytes:
        g = self._generation
        body: dict[str, Any] = {"index": choice.index}
        text = self._echo(choice.index) + piece.text if piece.first else piece.text
        if not g.chat:
            body["text"] = text
        else:
            body["delta"] = {"role": "assistant", "content": text} if piece.first else {"content": text}
        body["logprobs"] = self._logprobs(choice.index, piece)
        body["finish_reason"] = piece.finish_reason
        if piece.finish_reason is not None:
            body["stop_reason"] = piece.stop_reason
        chunk: dict[str, Any] = {**self._head, "object": self._kind, "choices": [body]}
        if g.return_token_ids:
            body["token_ids"] = piece.tokens
            if piece.first:
                (chunk if g.chat else body)["prompt_token_ids"] = choice.prompt
        if g.continuous_usage:
            chunk["usage"] = self.usage([choice])
        return _event(chunk)

    def _whole_choice(self, choice: Choice) -> dict[str, Any]:
        g = self._generation
        piece = choice.take()
        body: dict[str, Any] = {"index": choice.index}
        text = self._echo(choice.index) + piece.text
        if g.chat:
            body["message"] = {"role": "assistant", "content": text}
        else:
            body["text"] = text
        body["logprobs"] = self._logprobs(choice.index, piece)
        body["finish_reason"] = piece.finish_reason
        body["stop_reason"] = piece.stop_reason
        if g.return_token_ids:
            body["token_ids"] = piece.tokens
            if not g.chat:
                body["prompt_token_ids"] = choice.prompt
        return body

    def _logprobs(self, index: int, piece: Piece) -> dict[str, Any] | None:
        if self._generation.sampling.logprobs is None:
            return None
        if self._generation.chat:
            return chat_logprobs(self._tokenizer, piece)
        return completion_logprobs(self._tokenizer, piece, len(self._echo(index)))

    def _echo(self, index: int) -> str:
        g = self._generation
        return g.prompt_texts[index // g.n] if g.echo else ""


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encode(data).encode() + b"\n\n"
