"""Finds and merges the usage that engines report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
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
        rest = text[at + 8 :].lstrip()
        if rest.startswith(b"{"):
            try:
                return read_usage(_DECODER.raw_decode(rest.decode("utf-8", "replace"))[0])
            except ValueError:
                return None
        end = at
    return None


def failed(text: bytes) -> bool:
    """True when an answer, or the tail of a stream, says that the engine failed although HTTP said 200."""
    return b'"finish_reason":"error"' in text or b'"finish_reason": "error"' in text or b'data: {"error"' in text


def merge_cached(answer: dict[str, Any], cached_tokens: int | None) -> bool:
    """Set the cached tokens of D's answer to P's, where the prompt was computed. True when that changed `answer`."""
    usage = answer.get("usage")
    if cached_tokens is None or not isinstance(usage, dict):
        return False
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and details.get("cached_tokens") == cached_tokens:
        return False
    usage["prompt_tokens_details"] = {**(details if isinstance(details, dict) else {}), "cached_tokens": cached_tokens}
    return True
