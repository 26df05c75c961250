"""The official OpenAI client works against router and worker."""

from __future__ import annotations

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.conftest import Serve


@pytest.fixture(params=["router", "worker"])
def client(request: pytest.FixtureRequest, replicas: Serve) -> openai.OpenAI:
    url = replicas.url if request.param == "router" else replicas.workers()[0]["url"]
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_chat(client: openai.OpenAI, replicas: Serve) -> None:
    answer = client.chat.completions.create(
        model=replicas.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=5, temperature=0
    )
    assert answer.usage is not None and answer.usage.completion_tokens <= 5
    assert answer.choices[0].message.role == "assistant"


def test_stream_equals_whole(client: openai.OpenAI, replicas: Serve) -> None:
    model = replicas.model
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me"}]
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=24, temperature=0)
    assert whole.usage is not None
    text, usage, finish = "", None, None
    for chunk in client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage is not None and usage.completion_tokens == whole.usage.completion_tokens


def test_completions_n_logprobs_and_list_prompts(client: openai.OpenAI, replicas: Serve) -> None:
    answer = client.completions.create(
        model=replicas.model,
        prompt=["abc", "xyz"],
        n=2,
        max_tokens=3,
        seed=5,
        logprobs=2,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
        assert len(choice.logprobs.token_logprobs) == 3 and all(
            p is not None and p <= 0 for p in choice.logprobs.token_logprobs
        )
    again = client.completions.create(
        model=replicas.model, prompt="xyz", n=2, max_tokens=3, seed=5, extra_body={"ignore_eos": True}
    )
    assert [c.text for c in again.choices] == [c.text for c in answer.choices[2:]]


def test_errors_are_the_clients_own(client: openai.OpenAI, replicas: Serve) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nope", prompt="a")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=replicas.model, prompt="a", temperature=9)
    assert caught.value.param == "temperature"


@pytest.mark.parametrize("mode", ["pd", "ppd"])
def test_n_and_list_prompts_through_a_split(mode: str, split_shm: Serve, replicas: Serve) -> None:
    body = {
        "prompt": [[1, 2, 3] * 20, [4, 5, 6] * 20],
        "n": 2,
        "max_tokens": 4,
        "seed": 3,
        "return_token_ids": True,
        "ignore_eos": True,
    }
    split_shm.mode(mode)
    one = {**body, "prompt": [7, 8, 9] * 20}
    for request in (body, one):
        want = [c["token_ids"] for c in replicas.complete(request).body["choices"]]
        got = split_shm.complete(request)
        assert got.status == 200, got
        assert [c["token_ids"] for c in got.body["choices"]] == want
