from __future__ import annotations

import json

import pytest

from tercet.bench.answer import Answer, paired

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
    assert answer.chunk_tokens is None  # not every piece said how many tokens it held


@pytest.mark.parametrize(
    "events",
    [
        [{"choices": [{"text": "ab", "token_ids": [1, 2]}]}, {"choices": [{"text": "c", "token_ids": [3]}]}],
        [
            {"choices": [{"text": "ab", "logprobs": {"tokens": ["a", "b"]}}]},
            {"choices": [{"delta": {"content": "c"}, "logprobs": {"content": [{"token": "c"}]}}]},
        ],
        [
            {**_delta(content="ab"), "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
            {**_delta(content="c"), "usage": {"prompt_tokens": 1, "completion_tokens": 3}},
        ],
    ],
    ids=["token ids", "logprobs", "continuous usage"],
)
def test_tokens_per_piece_are_what_the_server_says(events: list[object]) -> None:
    assert _stream(*events).chunk_tokens == (2, 1)


def test_vision_tokens_and_the_timeline_are_taken_from_the_server() -> None:
    answer = Answer(200, SSE)
    usage = {"prompt_tokens": 90, "prompt_tokens_details": {"cached_tokens": 1, "image_tokens": 64}}
    answer.feed(f"data: {json.dumps({'usage': usage})}\n\n: keep-alive\n\n".encode(), 1)
    spans = [("queue", None, 0, 1.5), ("prefill", "P0", 1.5, 21.5), ("queue", None, 21.5, 22)]
    told = [{"phase": p, "worker": w, "start_ms": a, "end_ms": b} for p, w, a, b in spans]
    answer.feed(f": timeline {json.dumps({'spans': told})}\n\ndata: [DONE]\n\n".encode(), 2)
    assert (answer.vision_tokens, answer.cached_tokens) == (64, 1)
    assert answer.timeline == {"router.queue": 2.0, "P0.prefill": 20.0}


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
    ("events", "done", "expected", "failure", "error"),
    [
        ([_delta(content="a")], False, None, "closed", r"without \[DONE\]"),
        ([_delta(role="assistant")], True, None, "invalid_answer", "empty"),
        ([_delta(content="a")], True, 1, "invalid_answer", "no usage"),
        ([_delta(content="a"), {"usage": {"completion_tokens": 1}}], True, 2, "wrong_length", "1 tokens came, 2 were"),
        ([{"error": {"message": "out of blocks"}}], True, None, "engine_error", "out of blocks"),
        ([{"choices": [{"text": "a", "finish_reason": "error"}]}], True, None, "engine_error", "finish_reason error"),
        ([{"choices": [{"text": "a", "finish_reason": "abort"}]}], True, None, "engine_error", "finish_reason abort"),
        ([{"error": {"message": "first"}}, [1]], False, None, "engine_error", "first"),
        ([[1]], True, None, "invalid_answer", "not an object"),
    ],
)
def test_what_is_wrong_is_said(
    events: list[object], done: bool, expected: int | None, failure: str, error: str
) -> None:
    answer = _stream(*events, done=done)
    answer.finish(100, expected)
    assert answer.failure == failure
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


@pytest.mark.parametrize(
    "event",
    [
        [],
        {"choices": 1},
        {"choices": {"text": "a"}},
        {"choices": [None]},
        {"choices": ["a"]},
        {"choices": [{"delta": "a"}]},
        {"choices": [{"text": "a", "logprobs": [1]}]},
        {"choices": [{"text": "a", "token_ids": ["x"]}]},
        {"choices": [{"text": "a", "token_ids": [-1]}]},
        {"choices": [{"text": "a", "token_ids": [1 << 70]}]},
        {"choices": [], "usage": "many"},
        {"choices": [], "usage": {"prompt_tokens": "3"}},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": -2}},
        {"choices": [], "usage": {"prompt_tokens_details": [1]}},
        {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 1.5}}},
    ],
    ids=str,
)
def test_what_no_server_should_say_fails_the_request_and_not_the_run(event: object) -> None:
    answer = _stream({"choices": [{"text": "a", "token_ids": [1]}]}, event)
    answer.finish(100, None)
    assert answer.failure == "invalid_answer" and answer.error is not None
    assert answer.token_ids == [1]
    whole = Answer(200, "application/json")
    whole.feed(json.dumps(event).encode(), 1)
    whole.finish(2, None)
    assert whole.failure == "invalid_answer"


def test_what_is_nested_too_deep_is_no_answer() -> None:
    deep = "[" * 200_000
    for status, kind in ((200, "invalid_answer"), (400, "http_4xx")):
        answer = Answer(status, "application/json")
        answer.feed(deep.encode(), 1)
        answer.finish(2, None)
        assert answer.failure == kind
    stream = Answer(200, SSE)
    stream.feed(f": timeline {deep}\n\ndata: {deep}\n\n".encode(), 1)
    assert stream.failure == "invalid_answer" and stream.timeline == {}


def test_an_error_body_is_cut_wherever_a_character_lies() -> None:
    for blanks in range(4):
        answer = Answer(422, "application/json")
        answer.feed(json.dumps({"detail": " " * blanks + "é" * 200}, ensure_ascii=False).encode(), 1)
        answer.finish(2, None)
        assert answer.failure == "http_4xx" and answer.error is not None and answer.error.count("é") > 80


def test_halves_of_characters_are_joined_or_marked() -> None:
    assert paired("a\ud83d" + "\ude42b") == "a🙂b" and paired("🙂") == "🙂"
    assert paired("\ud83d!").encode().decode() == "\ufffd!"
    answer = Answer(200, "application/json")
    answer.feed(b'{"error": {"message": "no \\ud83d"}}', 1)
    answer.finish(2, None)
    assert answer.error == "no \ufffd"
