"""An OpenAI answer, streamed or whole, taken apart as it comes: no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tercet.http.sse import DONE, SSEParser

_CONTENT = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
_VISION = ("image_tokens", "multimodal_tokens", "vision_tokens")
_TIMELINE = "timeline "
MAX_COUNT = 1 << 32
"""Counts and token ids are below."""


class Answer:
    """Collects one answer to `/v1/completions` or `/v1/chat/completions` (choice 0 gives text and ids).

    `failure` is the kind of what is wrong with it so far (one of `results.record.FAILURES`), `error` says it in words;
    `finish` adds what is missing at its end.
    """

    __slots__ = (
        "_chunk_tokens",
        "_counted",
        "_done",
        "_known",
        "_sse",
        "_whole",
        "cached_tokens",
        "chunk_ns",
        "completion_tokens",
        "error",
        "failure",
        "finish_reason",
        "prompt_tokens",
        "status",
        "text",
        "token_ids",
        "vision_tokens",
    )

    def __init__(self, status: int, content_type: str) -> None:
        self._sse = SSEParser() if content_type.startswith("text/event-stream") and status == 200 else None
        self._whole: list[bytes] = []
        self._done = False
        self._chunk_tokens: list[int] = []
        self._known = True
        self._counted = 0
        self.status = status
        self.error: str | None = None
        self.failure: str | None = None
        self.chunk_ns: list[int] = []
        self.text: list[str] = []
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.vision_tokens: int | None = None

    @property
    def chunk_tokens(self) -> tuple[int, ...] | None:
        """How many tokens each piece of content held; None unless the server said so of every one."""
        return tuple(self._chunk_tokens) if self._known and self._chunk_tokens else None

    @property
    def timeline(self) -> dict[str, float]:
        """Where the time went, in milliseconds by worker and phase (`P0.prefill`), from the comment that a Tercet
        router sends before the end, where it was asked to."""
        said = "" if self._sse is None else self._sse.comment
        return _spans(said.removeprefix(_TIMELINE)) if said.startswith(_TIMELINE) else {}

    def feed(self, piece: bytes, now_ns: int) -> None:
        """Take what was read from the socket at `now_ns`."""
        if self._sse is None:
            self._whole.append(piece)
            return
        try:
            events = self._sse.feed(piece)
        except ValueError as error:
            self.fail("invalid_answer", str(error))
            return
        for data in events:
            if data == DONE:
                self._done = True
            else:
                self._take(data, now_ns)

    def fail(self, kind: str, message: str) -> None:
        """Note what is wrong; the first fault counts."""
        if self.failure is None:
            self.failure, self.error = kind, message

    def finish(self, now_ns: int, expected_tokens: int | None) -> None:
        """The answer is complete: check it. `expected_tokens` None accepts any length."""
        if self._sse is None:
            body = b"".join(self._whole)
            if self.status == 200:
                self._take(body, now_ns)
            else:
                kind = "http_5xx" if self.status >= 500 else "http_4xx"
                self.fail(kind, f"HTTP {self.status}: {_message(body)}")
        elif not self._done:
            self.fail("closed", "the stream ended without [DONE]")
        if self.failure is None:
            self._check(expected_tokens)

    def _check(self, expected_tokens: int | None) -> None:
        if not self.chunk_ns:
            self.fail("invalid_answer", "the answer is empty")
        elif expected_tokens is not None and self.completion_tokens is None:
            self.fail("invalid_answer", "the server did not count the answer's tokens: no usage")
        elif expected_tokens is not None and self.completion_tokens != expected_tokens:
            self.fail("wrong_length", f"{self.completion_tokens} tokens came, {expected_tokens} were asked for")

    def _take(self, data: str | bytes, now_ns: int) -> None:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            self.fail("invalid_answer", f"not JSON: {data[:80]!r}")
            return
        if not isinstance(event, dict):
            self.fail("invalid_answer", f"not an object: {data[:80]!r}")
            return
        try:
            self._read(event, now_ns)
        except (AttributeError, TypeError, ValueError) as error:
            self.fail("invalid_answer", f"not as OpenAI's API answers ({str(error)[:80]}): {data[:80]!r}")

    def _read(self, event: Mapping[str, Any], now_ns: int) -> None:
        """Take an event whose fields may be anything: raises AttributeError, TypeError or ValueError for what is none
        of the API's. It costs this request, not the run."""
        if event.get("error"):
            self.fail("engine_error", _error_text(event["error"]))
            return
        said = None
        if usage := event.get("usage"):
            said = self._count(usage)
        content = False
        tokens: int | None = None
        for choice in event.get("choices") or ():
            if self._choice(choice):
                content = True
                told = _tokens_told(choice)
                tokens = told if tokens is None else tokens + (told or 0)
        if content:
            self.chunk_ns.append(now_ns)
            self._chunk(tokens, said)

    def _chunk(self, tokens: int | None, said: int | None) -> None:
        """Note how many tokens a piece of content held: told with it, or by a usage that grows with each piece."""
        if tokens is None and said is not None:
            tokens = said - self._counted
        if tokens is None:
            self._known = False
            return
        self._counted += tokens
        self._chunk_tokens.append(tokens)

    def _choice(self, choice: Mapping[str, Any]) -> bool:
        """Take one choice; True when it brought content."""
        delta: Mapping[str, Any] = choice.get("delta") or choice.get("message") or {}
        text = choice.get("text") or delta.get("content") or ""
        ids = choice.get("token_ids") or ()
        if choice.get("index", 0) == 0:
            if isinstance(text, str) and text:
                self.text.append(text)
            self.token_ids += map(_whole, ids)
            if reason := choice.get("finish_reason"):
                self.finish_reason = reason
        if (reason := choice.get("finish_reason")) in ("error", "abort"):
            self.fail("engine_error", f"the engine ended the answer with finish_reason {reason}")
        return bool(text or ids) or any(delta.get(name) for name in _CONTENT)

    def _count(self, usage: Mapping[str, Any]) -> int | None:
        self.prompt_tokens = _known(usage.get("prompt_tokens"))
        self.completion_tokens = _known(usage.get("completion_tokens"))
        details = usage.get("prompt_tokens_details") or {}
        if details.get("cached_tokens") is not None:
            self.cached_tokens = _whole(details["cached_tokens"])
        for name in _VISION:
            if details.get(name) is not None:
                self.vision_tokens = _whole(details[name])
        return self.completion_tokens


def _whole(value: Any) -> int:
    """Return a count or a token's id. Raises TypeError for what is neither."""
    if type(value) is not int or not 0 <= value < MAX_COUNT:
        raise TypeError(f"{value!r} is no count")
    return value


def _known(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _spans(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    try:
        for span in json.loads(text)["spans"]:
            name = f"{span['worker'] or 'router'}.{span['phase']}"
            found[name] = found.get(name, 0.0) + span["end_ms"] - span["start_ms"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}  # another server's comment
    return found


def _tokens_told(choice: Mapping[str, Any]) -> int | None:
    """Return how many tokens a piece says it holds: by their ids, or by their log-probabilities."""
    if ids := choice.get("token_ids"):
        return len(ids)
    logprobs = choice.get("logprobs") or {}
    told = logprobs.get("tokens") or logprobs.get("content")
    return len(told) if told else None


def _message(body: bytes) -> str:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return body[:200].decode("utf-8", "replace")
    return (
        _error_text(data["error"])
        if isinstance(data, dict) and "error" in data
        else body[:200].decode(errors="replace")
    )


def _error_text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return paired(str(message))


def paired(text: str) -> str:
    """Return a text whose halves of characters, which JSON can hold one by one (`\\ud83d` in one piece of a stream,
    `\\ude42` in the next), are whole again; what has no other half is marked: no file and no terminal takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
