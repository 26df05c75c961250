"""Finds and merges the usage that engines report."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

import msgspec

from tercet.core.fast_json import loads_answer
from tercet.core.record import record

CACHED, CREATED = "cached_tokens", "created_cache_tokens"
"""Of a prompt's tokens, those found in the prefix cache and, with vLLM, those put there: the affair of who computed it,
whereas pictures and lengths are what they are everywhere."""
ERROR_EVENT = b'data: {"error"'
_FINISH = b'"finish_reason":'
MAX_REASON_BYTES = 64
MAX_USAGE_BYTES = 4096
MAX_EVENT_BYTES = 1024 * 1024
"""Of an event longer than this what came is passed on as it is."""


@record(frozen=True, slots=True)
class Usage:
    """Token counts of one answer. `cached_tokens` is None where the engine doesn't say."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


def read_usage(data: object) -> Usage | None:
    """Read an OpenAI usage object; None when it is none."""
    if not isinstance(data, dict):
        return None
    prompt, completion = data.get("prompt_tokens"), data.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    details = data.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(prompt, completion, cached if isinstance(cached, int) else None)


def find_usage(text: bytes) -> Usage | None:
    """Find the last usage object in an answer or the tail of a stream, without parsing the rest.

    The pattern can't match inside a JSON string: its quotes would be escaped.
    """
    end = len(text)
    while (at := text.rfind(b'"usage":', 0, end)) >= 0:
        rest = text[at + 8 : at + 8 + 2 * MAX_USAGE_BYTES].lstrip()  # what follows may be a long ticket
        if rest.startswith(b"{"):
            return read_usage(_first_object(rest))
        end = at
    return None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Counts(msgspec.Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Whole(msgspec.Struct, gc=False):
    """What is read of a whole answer: the decoder skips the rest, its text above all."""

    usage: _Counts | None = None
    choices: tuple[_Choice, ...] = ()


_read = msgspec.json.Decoder(_Whole).decode


def read_answer(body: bytes) -> tuple[Usage | None, str | None]:
    """Return usage and finish reason of a whole answer: what `find_usage` and `find_finish_reason` find in it."""
    try:
        whole = _read(body)
    except (msgspec.MsgspecError, ValueError):
        return find_usage(body), find_finish_reason(body)
    reason = None
    for choice in whole.choices:
        reason = choice.finish_reason or reason
    counts = whole.usage
    if counts is None:
        return None, reason
    details = counts.prompt_tokens_details
    cached = None if details is None else details.cached_tokens
    return Usage(counts.prompt_tokens, counts.completion_tokens, cached), reason


def _first_object(text: bytes) -> object:
    """Return the JSON object that `text` begins with; None when it is none."""
    end = 0
    # To where as many braces are closed as were opened: what is tried in vain is dear.
    while (end := text.find(b"}", end) + 1) and text.count(b"{", 0, end) > text.count(b"}", 0, end):
        if end > MAX_USAGE_BYTES:
            return None
    end = max(0, end - 1)
    while end := text.find(b"}", end) + 1:
        try:
            return loads_answer(text[:end])
        except ValueError:
            if end > MAX_USAGE_BYTES:
                return None
    return None


def find_finish_reason(text: bytes) -> str | None:
    """Return the last finish reason in an answer or the tail of a stream; None when there is none.

    As above the pattern can't match inside a JSON string.
    """
    at = text.rfind(_FINISH)
    while at >= 0:
        rest = text[at + len(_FINISH) : at + len(_FINISH) + MAX_REASON_BYTES].lstrip()
        if rest.startswith(b'"'):
            return rest[1:].partition(b'"')[0].decode("utf-8", "replace")
        at = text.rfind(_FINISH, 0, at)
    return None


def failed(text: bytes) -> bool:
    """True when an answer, or the tail of a stream, says that the engine failed although HTTP said 200, or that the
    request was aborted there."""
    if b'"error"' not in text:
        return aborted(text)  # nearly always, and two looks instead of five
    error = b'"finish_reason":"error"' in text or b'"finish_reason": "error"' in text or ERROR_EVENT in text
    return error or aborted(text)


def aborted(text: bytes) -> bool:
    """True when an answer ended because somebody else than its client aborted the request in the engine: what there is
    of it is none. A vLLM that is told to end, to pause or to sleep ends so all that it has at work."""
    return b'"abort"' in text and (b'"finish_reason":"abort"' in text or b'"finish_reason": "abort"' in text)


def prompt_details(usage: object, told: Container[str] = ()) -> dict[str, int]:
    """Return what P's usage says of the prompt and D's can't, but for what D was `told`, and for zeros, which D says
    too of what it didn't do."""
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    if not isinstance(details, dict):
        return {}
    found = {name: details.get(name) for name in (CACHED, CREATED) if name not in told}
    return {name: value for name, value in found.items() if type(value) is int and (value or name == CACHED)}


def merge_details(answer: dict[str, Any], details: Mapping[str, int]) -> bool:
    """Say in the usage of D's answer what P said of the prompt. True when that changed `answer`."""
    usage = answer.get("usage")
    if not details or not isinstance(usage, dict):
        return False
    own = usage.get("prompt_tokens_details")
    merged = {**(own if isinstance(own, dict) else {}), **details}
    if merged == own:
        return False
    usage["prompt_tokens_details"] = merged
    return True


class StreamedUsage:
    """Says in the usage of a stream what P said of the prompt; all else passes as it came.

    Whole events pass at once; only the beginning of one that is cut by the pieces waits for its end.
    """

    __slots__ = ("_begun", "_details")

    def __init__(self, details: Mapping[str, int]) -> None:
        self._details, self._begun = details, b""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece of the stream; return what can be passed on."""
        data = self._begun + piece if self._begun else piece
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            end = data.rfind(b"\n") + 1 if len(data) > MAX_EVENT_BYTES else 0
        whole, self._begun = data[:end], data[end:]
        if b'"usage":' not in whole:
            return whole
        return b"\n\n".join(map(self._rewritten, whole.split(b"\n\n")))

    def end(self) -> bytes:
        """Return what was kept back."""
        rest, self._begun = self._begun, b""
        return rest

    def _rewritten(self, event: bytes) -> bytes:
        if not event.startswith(b"data: {") or b'"usage":' not in event:
            return event
        try:
            data = loads_answer(event[6:])
        except ValueError:
            return event
        if not merge_details(data, self._details):
            return event
        return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
