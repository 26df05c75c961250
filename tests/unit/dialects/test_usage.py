from __future__ import annotations

import json

import pytest

from tercet.dialects.usage import Usage, failed, find_usage, merge_cached

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}


def event(**data: object) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (json.dumps({"choices": [], "usage": USAGE, "x": 1}).encode(), Usage(7, 2, 4)),
        (b'elta":{}}]}\n\n' + event(choices=[], usage=USAGE) + b"data: [DONE]\n\n", Usage(7, 2, 4)),
        (event(choices=[1], usage=None) + event(choices=[], usage=USAGE), Usage(7, 2, 4)),
        (event(choices=[], usage=USAGE) + event(choices=[1], usage=None), Usage(7, 2, 4)),
        (json.dumps({"usage": {"prompt_tokens": 7, "completion_tokens": 2}}).encode(), Usage(7, 2, None)),
        (json.dumps({"text": json.dumps({"usage": USAGE})}).encode(), None),
        (b'{"usage": {"prompt_to', None),
        (b'{"usage": {"prompt_tokens": "x"}}', None),
        (b"", None),
    ],
)
def test_find_usage(text: bytes, found: Usage | None) -> None:
    assert find_usage(text) == found


def test_failed() -> None:
    assert failed(event(choices=[{"finish_reason": "error"}]))
    assert failed(json.dumps({"choices": [{"finish_reason": "error"}]}).encode())
    assert failed(b'data: {"error":{"message":"x"}}\n\n')
    assert not failed(json.dumps({"text": '"finish_reason": "error"', "finish_reason": "stop"}).encode())


def test_merge_cached() -> None:
    answer: dict[str, object] = {"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0, "a": 1}}}
    assert merge_cached(answer, 5)
    assert answer["usage"] == {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5, "a": 1}}
    assert not merge_cached(answer, 5) and not merge_cached(answer, None) and not merge_cached({}, 5)
