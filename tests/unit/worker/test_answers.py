from __future__ import annotations

import json
from typing import Any

import pytest

from tercet.core.sampling import SampledToken
from tercet.engine.models.store import random_model_folder
from tercet.text.tokenizer import Tokenizer, load_tokenizer
from tercet.worker.answers import AnswerWriter
from tercet.worker.choice import Choice
from tercet.worker.openai_request import Generation, parse_generation
from tercet.worker.wire import Refusal


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(random_model_folder("tiny").path)


def setting(tokenizer: Tokenizer, chat: bool = False, **fields: Any) -> tuple[Generation, AnswerWriter, list[Choice]]:
    body = {"stream": True, "max_tokens": 9, **fields}
    body |= {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": body.get("prompt", "hi")}
    g = parse_generation(body, chat=chat, tokenizer=tokenizer, max_model_len=100)
    choices = [Choice(i, g, tokenizer) for i in range(g.choices)]
    return g, AnswerWriter("id-1", 'a "model"', g, tokenizer), choices


def event(data: bytes) -> Any:
    assert data.startswith(b"data: ") and data.endswith(b"\n\n") and data.count(b"\n") == 2
    return json.loads(data[6:])


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_a_cheap_chunk_is_like_a_full_one(tokenizer: Tokenizer, chat: bool, ids: bool) -> None:
    _, writer, (_, choice) = setting(tokenizer, chat, n=2, return_token_ids=ids)
    texts, chunks = ['say "hi"\n', "\\ é 世 \u2028 \x01", "end"], []
    for text in texts:
        for token in tokenizer.encode(text):
            choice.push(token)
        if text == "end":
            choice.end("length", None)
        chunks.append(event(writer.chunk(choice, choice.take())))
    first, cheap, last = chunks
    assert {k: v for k, v in cheap.items() if k != "choices"} == {k: v for k, v in last.items() if k != "choices"}
    assert cheap["model"] == 'a "model"' and cheap["id"] == "id-1"
    assert set(last["choices"][0]) - set(cheap["choices"][0]) == {"stop_reason"}
    for text, chunk in zip(texts, chunks, strict=True):
        (got,) = chunk["choices"]
        assert got["index"] == 1 and got["logprobs"] is None
        assert (got["delta"]["content"] if chat else got["text"]) == text
        assert got.get("token_ids") == (tokenizer.encode(text) if ids else None)
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "length"]
    holder = first if chat else first["choices"][0]
    assert ("prompt_token_ids" in holder) == ids and "prompt_token_ids" not in json.dumps(chunks[1:])


def test_usage_counts_a_prompt_once(tokenizer: Tokenizer) -> None:
    _, writer, choices = setting(tokenizer, prompt=["abcd", "ef"], n=2)
    for choice, cached in zip(choices, (2, 4, 0, 2), strict=True):
        writer.cached(choice, cached)
        choice.end("length", SampledToken(70))
    assert writer.usage(choices) == {
        "prompt_tokens": 6,
        "completion_tokens": 4,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert event(writer.usage_chunk(choices))["choices"] == []


def test_continuous_usage(tokenizer: Tokenizer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    _, writer, (choice,) = setting(tokenizer, stream_options=options)
    for total in (1, 2):
        choice.push(70)
        assert event(writer.chunk(choice, choice.take()))["usage"]["completion_tokens"] == total


def test_whole_answers(tokenizer: Tokenizer) -> None:
    for chat in (False, True):
        g, writer, (choice,) = setting(tokenizer, chat, stream=False, return_token_ids=True, echo=True)
        choice.push(tokenizer.encode("o")[0])
        choice.end("length", SampledToken(tokenizer.encode("k")[0]))
        answer = json.loads(writer.whole([choice], {"ticket_id": "t"}))
        got = answer["choices"][0]
        assert answer["kv_transfer_params"] == {"ticket_id": "t"}
        assert (got["finish_reason"], got["stop_reason"], len(got["token_ids"])) == ("length", None, 2)
        if chat:
            assert got["message"] == {"role": "assistant", "content": "ok"}
            assert answer["prompt_token_ids"] == list(g.prompts[0]) and "prompt_token_ids" not in got
        else:
            assert got["text"] == "hiok"
            assert got["prompt_token_ids"] == list(g.prompts[0]) and "prompt_token_ids" not in answer


def test_an_error_in_a_stream_is_an_error_object() -> None:
    error = event(AnswerWriter.error_chunk(Refusal(500, "gone", "engine_dead")))["error"]
    assert error == {"message": "gone", "type": "server_error", "code": "engine_dead", "param": None}
