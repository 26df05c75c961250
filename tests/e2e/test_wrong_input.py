"""Wrong input is refused with an OpenAI error object, by router and worker alike."""

from __future__ import annotations

from typing import Any

import pytest

from tercet.worker.config import MAX_BODY_BYTES
from tests.e2e.conftest import Serve, call


@pytest.fixture(params=["router", "worker"])
def base(request: pytest.FixtureRequest, split_shm: Serve) -> str:
    return split_shm.url if request.param == "router" else str(split_shm.workers("decode")[0]["url"])


def check(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status == status, answer
    error: dict[str, Any] = answer.body["error"]
    assert set(error) >= {"message", "type", "code", "param"}
    return error


def test_unknown_model(base: str) -> None:
    error = check(call(f"{base}/v1/completions", {"model": "nope", "prompt": "a"}), 404)
    assert "nope" in error["message"]


def test_bad_json(base: str) -> None:
    check(call(f"{base}/v1/completions", b'{"prompt": "a"'), 400)


def test_prompt_too_long_says_both_lengths(base: str, split_shm: Serve) -> None:
    limit = call(f"{split_shm.url}/v1/models").body["data"][0]["max_model_len"]
    error = check(call(f"{base}/v1/completions", {"model": split_shm.model, "prompt": [1] * (limit + 5)}), 400)
    assert str(limit) in error["message"] and str(limit + 5) in error["message"]
    assert error["code"] == "context_length_exceeded"


def test_body_too_large(base: str) -> None:
    check(call(f"{base}/v1/completions", b" " * (MAX_BODY_BYTES + 1)), 413)


def test_wrong_type_names_the_field(base: str, split_shm: Serve) -> None:
    error = check(call(f"{base}/v1/completions", {"model": split_shm.model, "prompt": "a", "max_tokens": "x"}), 400)
    assert error["param"] == "max_tokens"


def test_unknown_mode(split_shm: Serve) -> None:
    check(call(f"{split_shm.url}/mode/auto", b""), 404)


def test_mode_without_its_stages_gives_the_reason(split_shm: Serve) -> None:
    error = check(call(f"{split_shm.url}/mode/replicated", b""), 409)
    assert "prefill and decode" in error["message"]


def test_unknown_path(base: str) -> None:
    check(call(f"{base}/v2/nothing", {}), 404)
