from __future__ import annotations

import json

import pytest

from tercet.bench.answer import Answer

SSE = "text/event-stream; charset=utf-8"


def _stream(*events: object, done: bool = True) -> Answer:
    answer = Answer(200, SSE)
    for ns, event in enumerate(events, 1):
        answer.feed(f"data: {json.dumps(event)}\n\n".encode(), ns)
    if done:
        answer.feed(b"data: [DONE]\n\n", 99)
    return answer


def _delta(**delta: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta}]}


def test_only_content_counts_as_content() -> None:
    answer = _stream(
        _delta(role="assistant", content=""),
        _delta(content=None),
        {"choices": [{"index": 0, "text": ""}]},
        _delta(content="a"),
        _delta(reasoning_content="b"),
        _delta(tool_calls=[{"index": 0}]),
        {"choices": [{"index": 0, "text": "", "token_ids": [5]}]},
        {"choices": [{"index": 0, "text": "c", "token_ids": [6]}]},
        {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}},
    )
    answer.finish(100, 5)
    assert answer.error is None
    assert answer.chunk_ns == [4, 5, 6, 7, 8]
    assert answer.text == ["a", "c"] and answer.token_ids == [5, 6] and answer.finish_reason == "length"
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (3, 5, None)


def test_a_stream_split_anywhere_gives_the_same_answer() -> None:
    stream = 'data: {"choices":[{"index":0,"text":"é🙂"}]}\n\n: c\n\ndata: [DONE]\n\n'.encode()
    for cut in range(1, len(stream)):
        answer = Answer(200, SSE)
        answer.feed(stream[:cut], 1)
        answer.feed(stream[cut:], 2)
        answer.finish(2, None)
        assert answer.error is None and answer.text == ["é🙂"] and len(answer.chunk_ns) == 1


def test_a_whole_answer_is_read_too() -> None:
    answer = Answer(200, "application/json")
    message = {"message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop", "index": 0}
    body = json.dumps({"choices": [message], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}).encode()
    answer.feed(body[:10], 1)
    answer.feed(body[10:], 2)
    answer.finish(2, None)
    assert answer.error is None and answer.text == ["Paris"] and answer.chunk_ns == [2]


@pytest.mark.parametrize(
    ("events", "done", "expected", "error"),
    [
        ([_delta(content="a")], False, None, r"without \[DONE\]"),
        ([_delta(role="assistant")], True, None, "empty"),
        ([_delta(content="a")], True, 1, "no usage"),
        ([_delta(content="a"), {"usage": {"completion_tokens": 1}}], True, 2, "1 tokens came, 2 were asked for"),
        ([{"error": {"message": "out of blocks"}}], True, None, "out of blocks"),
        ([{"choices": [{"index": 0, "text": "a", "finish_reason": "error"}]}], True, None, "finish_reason error"),
        ([[1]], True, None, "not an object"),
    ],
)
def test_what_is_wrong_is_said(events: list[object], done: bool, expected: int | None, error: str) -> None:
    answer = _stream(*events, done=done)
    answer.finish(100, expected)
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(answer.error)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error": {"message": "no such model"}}', "HTTP 404: no such model"),
        (b"<html>gateway</html>", "HTTP 404: <html>gateway</html>"),
    ],
)
def test_a_refusal_is_an_error(body: bytes, error: str) -> None:
    answer = Answer(404, "application/json")
    answer.feed(body, 1)
    answer.finish(1, None)
    assert answer.error == error and not answer.chunk_ns
