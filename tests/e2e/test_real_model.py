"""SmolLM2 itself: Paris through every mode in bf16, and in fp32 the same tokens over a five-turn conversation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tercet.compare.admin import CAPITAL_QUESTION
from tests.e2e.conftest import Serve, metric, start_serve, stop_serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

QUESTION = {"messages": [{"role": "user", "content": CAPITAL_QUESTION}], "temperature": 0, "max_tokens": 16}
TURNS = [
    "My name is Ada and I like rivers. Name one river.",
    "In which country does it begin?",
    "Write one sentence about it.",
    "What is my name?",
    "Say goodbye.",
]
SAMPLING: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 11}]
MODES = [("2A", "aggregated"), ("2A", "replicated"), ("1P1D", "pd"), ("1P1D", "ppd")]


@pytest.fixture(scope="module", params=["2A", "1P1D"])
def bf16(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Serve]]:
    serve = start_serve(tmp_path_factory.mktemp("bf16"), request.param)
    yield request.param, serve
    stop_serve(serve)


def test_the_capital_of_france(bf16: tuple[str, Serve]) -> None:
    topology, serve = bf16
    for name in [mode for form, mode in MODES if form == topology]:
        serve.mode(name)
        for _ in range(2):
            answer = serve.chat({"model": "smollm2-135m", **QUESTION}, X_Session_Id=f"france-{name}")
            assert answer.status == 200, answer
            assert "Paris" in answer.body["choices"][0]["message"]["content"]
    serve.wait_idle()


def converse(serve: Serve, session: str, sampling: dict[str, Any]) -> list[str]:
    messages: list[dict[str, str]] = []
    answers = []
    for text in TURNS:
        messages.append({"role": "user", "content": text})
        body = {"model": "smollm2-135m", "messages": messages, "max_tokens": 24, **sampling}
        answer = serve.chat(body, X_Session_Id=session)
        assert answer.status == 200, answer
        content = answer.body["choices"][0]["message"]["content"]
        answers.append(content)
        messages.append({"role": "assistant", "content": content})
    return answers


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    serve = start_serve(tmp_path_factory.mktemp("fp32"), "2A", "--mode", "aggregated", "--dtype", "fp32")
    try:
        answers = [converse(serve, f"a{i}", sampling) for i, sampling in enumerate(SAMPLING)]
        serve.mode("replicated")
        assert [converse(serve, f"r{i}", sampling) for i, sampling in enumerate(SAMPLING)] == answers
    finally:
        stop_serve(serve)
    return answers


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_five_turns_give_the_same_tokens(expected: list[list[str]], transport: str, tmp_path: Path) -> None:
    serve = start_serve(tmp_path, "1P1D", "--mode", "pd", "--dtype", "fp32", "--transport", transport)
    try:
        decode = serve.workers("decode")[0]["url"]
        for mode in ("pd", "ppd"):
            serve.mode(mode)
            moved = metric(decode, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer")
            got = [converse(serve, f"{mode}{i}", sampling) for i, sampling in enumerate(SAMPLING)]
            assert got == expected
            if mode == "pd":
                assert metric(decode, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer") > moved
            else:
                assert metric(decode, "vllm:prompt_tokens_by_source_total", source="local_cache_hit") > 0
        serve.wait_idle()
    finally:
        stop_serve(serve)
