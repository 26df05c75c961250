from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.http.sse import SSEParser

STREAM = (
    ': keep-alive\n\ndata: {"a": "é世🙂"}\n\nevent: x\nid: 1\ndata: one\ndata: two\n\n'
    "data:tight\r\n\r\n\r\ndata: cr\r\rdata\n\nretry: 5\n\ndata: [DONE]\n\ndata: never finished"
).encode()
EVENTS = ['{"a": "é世🙂"}', "one\ntwo", "tight", "cr", "", "[DONE]"]


def _parse(pieces: list[bytes]) -> list[str]:
    parser = SSEParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def test_a_stream_in_one_piece() -> None:
    assert _parse([STREAM]) == EVENTS


def test_a_stream_split_at_every_byte_and_in_single_bytes() -> None:
    for cut in range(len(STREAM) + 1):
        assert _parse([STREAM[:cut], STREAM[cut:]]) == EVENTS
    assert _parse([bytes([byte]) for byte in STREAM]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_split_anywhere(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert _parse([STREAM[a:b] for a, b in pairwise(edges)]) == EVENTS


def test_an_event_is_handed_out_as_soon_as_it_is_whole() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: 1\n\nda") == ["1"]
    assert parser.feed(b"ta: 2\n") == []
    assert parser.feed(b"\n") == ["2"]


def test_an_endless_event_is_refused() -> None:
    parser = SSEParser(max_event_bytes=100)
    parser.feed(b"data: " + b"x" * 60 + b"\n")
    with pytest.raises(ValueError, match="larger than 100"):
        parser.feed(b"data: " + b"x" * 60)
