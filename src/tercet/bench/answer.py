"""An OpenAI answer, streamed or whole, taken apart as it comes: no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tercet.http.sse import DONE, SSEParser

_CONTENT = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")


class Answer:
    """Collects one answer to `/v1/completions` or `/v1/chat/completions` (choice 0 gives text and ids).

    `error` says what is wrong with it so far; `finish` adds what is missing at its end.
    """

    __slots__ = (
        "_content_type",
        "_done",
        "_sse",
        "_whole",
        "cached_tokens",
        "chunk_ns",
        "completion_tokens",
        "error",
        "finish_reason",
        "prompt_tokens",
        "status",
        "text",
        "token_ids",
    )

    def __init__(self, status: int, content_type: str) -> None:
        self._content_type = content_type
        self._sse = SSEParser() if content_type.startswith("text/event-stream") and status == 200 else None
        self._whole: list[bytes] = []
        self._done = False
        self.status = status
        self.error: str | None = None
        self.chunk_ns: list[int] = []
        self.text: list[str] = []
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens: int | None = None

    def feed(self, piece: bytes, now_ns: int) -> None:
        """Take what was read from the socket at `now_ns`."""
        if self._sse is None:
            self._whole.append(piece)
            return
        try:
            events = self._sse.feed(piece)
        except ValueError as error:
            self.error = str(error)
            return
        for data in events:
            if data == DONE:
                self._done = True
            else:
                self._take(data, now_ns)

    def finish(self, now_ns: int, expected_tokens: int | None) -> None:
        """The answer is complete: check it. `expected_tokens` None accepts any length."""
        if self._sse is None:
            body = b"".join(self._whole)
            if self.status == 200:
                self._take(body, now_ns)
            else:
                self.error = f"HTTP {self.status}: {_message(body)}"
        elif not self._done and self.error is None:
            self.error = "the stream ended without [DONE]"
        if self.error is None:
            self._check(expected_tokens)

    def _check(self, expected_tokens: int | None) -> None:
        if not self.chunk_ns:
            self.error = "the answer is empty"
        elif expected_tokens is not None and self.completion_tokens is None:
            self.error = "the server did not count the answer's tokens: no usage"
        elif expected_tokens is not None and self.completion_tokens != expected_tokens:
            self.error = f"{self.completion_tokens} tokens came, {expected_tokens} were asked for"

    def _take(self, data: str | bytes, now_ns: int) -> None:
        try:
            event = json.loads(data)
        except ValueError:
            self.error = f"not JSON: {data[:80]!r}"
            return
        if not isinstance(event, dict):
            self.error = f"not an object: {data[:80]!r}"
            return
        if event.get("error"):
            self.error = _error_text(event["error"])
            return
        if usage := event.get("usage"):
            self._count(usage)
        content = False
        for choice in event.get("choices") or ():
            content |= self._choice(choice)
        if content:
            self.chunk_ns.append(now_ns)

    def _choice(self, choice: Mapping[str, Any]) -> bool:
        """Take one choice; True when it brought content."""
        delta: Mapping[str, Any] = choice.get("delta") or choice.get("message") or {}
        text = choice.get("text") or delta.get("content") or ""
        ids = choice.get("token_ids") or ()
        if choice.get("index", 0) == 0:
            if isinstance(text, str) and text:
                self.text.append(text)
            self.token_ids += ids
            if reason := choice.get("finish_reason"):
                self.finish_reason = reason
        if choice.get("finish_reason") == "error":
            self.error = "the engine ended the answer with finish_reason error"
        return bool(text or ids) or any(delta.get(name) for name in _CONTENT)

    def _count(self, usage: Mapping[str, Any]) -> None:
        self.prompt_tokens = usage.get("prompt_tokens")
        self.completion_tokens = usage.get("completion_tokens")
        details = usage.get("prompt_tokens_details") or {}
        if details.get("cached_tokens") is not None:
            self.cached_tokens = details["cached_tokens"]


def _message(body: bytes) -> str:
    try:
        data = json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace")
    return _error_text(data["error"]) if isinstance(data, dict) and "error" in data else body[:200].decode()


def _error_text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)
