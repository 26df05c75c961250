"""The usage of a stream, corrected while the rest passes as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.dialects.usage import MAX_EVENT_BYTES, StreamedUsage


def event(data: Any, style: dict[str, Any] | None = None, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps(data, **(style or {'separators': (',', ':')}))}{end}".encode()


def usage(cached: int | None) -> dict[str, Any]:
    details = None if cached is None else {"cached_tokens": cached, "audio_tokens": 0}
    return {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": details}


TEXT = event({"choices": [{"text": 'say "usage": {', "logprobs": None}], "usage": None})
DONE = b"data: [DONE]\n\n"


def passed(pieces: list[bytes], cached: int = 7) -> bytes:
    rewriter = StreamedUsage({"cached_tokens": cached})
    return b"".join(map(rewriter.feed, pieces)) + rewriter.end()


@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}])
@pytest.mark.parametrize("end", ["\n\n", " \n\n"])
def test_usage_is_corrected_wherever_it_stands(style: dict[str, Any], end: str) -> None:
    stream = TEXT + event({"choices": [1], "usage": usage(0)}, style, end) + event({"usage": usage(3)}, style) + DONE
    first, *rest = passed([stream]).split(b"\n\n")
    assert first + b"\n\n" == TEXT and rest[-2:] == [DONE[:-2], b""]
    found = [json.loads(line[6:])["usage"] for line in rest[:-2]]
    assert found == [usage(7), usage(7)]


@pytest.mark.parametrize(
    "stream",
    [
        TEXT + DONE,
        event({"usage": usage(7)}) + DONE,
        event({"usage": "many"}) + b": comment\n\n" + DONE,
        event({"choices": [{"text": json.dumps({"usage": usage(1)})}]}),
        b'data: {"usage":{"prompt_tokens":\n\n',
        b"data: [1]\n\ndata: 3\n\n",
        b"no event at all",
        b"",
    ],
)
def test_all_else_passes_as_it_came(stream: bytes) -> None:
    assert passed([stream]) == stream
    assert passed([stream[i : i + 1] for i in range(len(stream))]) == stream


def test_where_the_engine_names_no_details_they_are_added() -> None:
    assert json.loads(passed([event({"usage": usage(None)})])[6:])["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 7
    }


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(0, 3))
def test_however_the_stream_is_cut(sizes: list[int], texts: int) -> None:
    stream = TEXT * texts + event({"usage": usage(1)}) + DONE
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    assert passed([*pieces, stream[at:]]) == passed([stream])


def test_whole_events_wait_for_nothing() -> None:
    rewriter = StreamedUsage({"cached_tokens": 7})
    assert rewriter.feed(TEXT + TEXT[:9]) == TEXT
    assert rewriter.feed(TEXT[9:]) == TEXT


def test_an_event_without_end_is_not_kept_for_ever() -> None:
    rewriter, line = StreamedUsage({"cached_tokens": 7}), b"data: " + b"x" * 1000 + b"\r\n"
    kept = 0
    for i in range(3 * MAX_EVENT_BYTES // len(line)):
        kept += len(line) - len(rewriter.feed(line))
        assert kept <= MAX_EVENT_BYTES + len(line), i
