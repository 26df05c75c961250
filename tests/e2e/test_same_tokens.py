"""Every mode and transport gives the tokens that the aggregated one gives: greedy, and sampled with a seed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.e2e.conftest import Serve, metric

TURNS = 5
SLOW_SPLITS = [pytest.param(name, marks=pytest.mark.slow) for name in ("split_nixl", "split_mooncake")]
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 0.9, "top_p": 0.95, "top_k": 40, "seed": 1234},
}


def converse(serve: Serve, salt: int, sampling: dict[str, Any]) -> list[list[int]]:
    """Hold one conversation of token ids; return the answer's ids turn by turn."""
    rng = random.Random(salt)
    history: list[int] = []
    answers = []
    for _ in range(TURNS):
        history += [rng.randrange(0, 256) for _ in range(37)]
        body = {"prompt": history, "max_tokens": 12, "ignore_eos": True, "return_token_ids": True, **sampling}
        answer = serve.complete(body, X_Session_Id=f"conversation-{salt}")
        assert answer.status == 200, answer
        ids = answer.body["choices"][0]["token_ids"]
        assert len(ids) == 12
        assert answer.body["usage"]["completion_tokens"] == 12
        assert answer.body["usage"]["prompt_tokens"] == len(history)
        answers.append(ids)
        history += ids
    return answers


@pytest.fixture(scope="module", params=sorted(SAMPLING))
def expected(request: pytest.FixtureRequest, replicas: Serve) -> tuple[dict[str, Any], list[list[int]]]:
    sampling = SAMPLING[request.param]
    replicas.mode("aggregated")
    return sampling, converse(replicas, 7, sampling)


def test_replicated(expected: tuple[dict[str, Any], list[list[int]]], replicas: Serve) -> None:
    replicas.mode("replicated")
    assert converse(replicas, 7, expected[0]) == expected[1]


@pytest.mark.parametrize("mode", ["pd", "ppd"])
@pytest.mark.parametrize("fixture", ["split_shm", "split_tcp", *SLOW_SPLITS])
def test_split(
    expected: tuple[dict[str, Any], list[list[int]]], fixture: str, mode: str, request: pytest.FixtureRequest
) -> None:
    serve: Serve = request.getfixturevalue(fixture)
    serve.mode(mode)
    decode = serve.workers("decode")[0]["url"]
    before = metric(decode, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer")
    assert converse(serve, 7, expected[0]) == expected[1]
    if mode == "pd":
        moved = metric(decode, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer") - before
        assert moved > 0, "the prompt did not come by transfer"
    serve.wait_idle()
