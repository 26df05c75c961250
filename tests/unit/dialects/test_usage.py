from __future__ import annotations

import json

import pytest

from tercet.dialects.usage import Usage, failed, find_usage, merge_details, prompt_details

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
    assert failed(event(choices=[{"finish_reason": "abort"}]))
    assert failed(json.dumps({"choices": [{"text": "error", "finish_reason": "abort"}]}).encode())
    assert not failed(json.dumps({"text": '"finish_reason": "error"', "finish_reason": "stop"}).encode())
    assert not failed(json.dumps({"text": "abort", "role": "error", "finish_reason": "stop"}).encode())


def test_merge_details() -> None:
    answer: dict[str, object] = {"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0, "a": 1}}}
    five = {"cached_tokens": 5}
    assert merge_details(answer, five)
    assert answer["usage"] == {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5, "a": 1}}
    assert not merge_details(answer, five) and not merge_details(answer, {}) and not merge_details({}, five)


@pytest.mark.parametrize(
    ("details", "told", "left"),
    [
        (None, (), {}),
        ("x", (), {}),
        ({"cached_tokens": 0, "created_cache_tokens": 0}, (), {"cached_tokens": 0}),
        ({"cached_tokens": 4, "created_cache_tokens": 64}, ("cached_tokens",), {"created_cache_tokens": 64}),
        ({"cached_tokens": None, "multimodal_tokens": {"image": 4}, "x": True}, (), {}),
    ],
)
def test_what_only_p_can_say(details: object, told: tuple[str, ...], left: dict[str, int]) -> None:
    assert prompt_details({"prompt_tokens_details": details}, told) == left
    assert prompt_details(None, told) == {}
