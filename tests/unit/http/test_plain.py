"""What is read without a parser must be what the parser reads."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.http.plain import CHUNKED, PlainHead, PlainHeads, plain_chunks

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 29 Nov 2026 00:00:00 GMT\r\nServer:uvicorn\r\nX-Empty:\r\n"
    b"Content-Length: 12\r\nContent-Type: application/json\r\n\r\n"
)
ODD = [
    b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK \r\nContent-Length: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: a\0b\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1 \r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n X: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: a\rb\r\n\r\n",
]
STREAM = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"


def plain_head(head: bytes) -> PlainHead | None:
    """Read a head as one that never came, and again as one that did."""
    heads = PlainHeads()
    found = heads[head]
    assert heads[head] == found
    return found


class _Seen:
    """What the parser makes of an answer."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.whole = True


def _parsed(data: bytes) -> _Seen:
    seen = _Seen()
    httptools.HttpResponseParser(seen).feed_data(data)
    return seen


def test_a_plain_head() -> None:
    found = plain_head(HEAD)
    assert found is not None
    assert found[0] == 200 and found[2] == 12 and found[1]["server"] == "uvicorn" and found[1]["x-empty"] == ""
    assert list(found[1].items()) == _parsed(HEAD).headers
    assert plain_head(HEAD.replace(b"Content-Length: 12", b"transfer-encoding: Chunked")) is not None


@pytest.mark.parametrize("head", ODD)
def test_what_is_not_plain_is_left_to_the_parser(head: bytes) -> None:
    assert plain_head(head) is None


@given(st.integers(0, len(HEAD) - 4), st.binary(max_size=6), st.integers(0, 8))
def test_a_plain_head_is_what_the_parser_reads(at: int, put: bytes, drop: int) -> None:
    head = HEAD[:at] + put + HEAD[at + drop :]
    if head.find(b"\r\n\r\n") != len(head) - 4 or (found := plain_head(head)) is None:
        return
    status, headers, length = found
    seen = _parsed(head)
    assert list(headers.items()) == seen.headers and head[9:12] == b"%d" % status
    assert seen.whole == (length == 0)


def test_what_is_remembered_of_heads_is_bounded_and_changes_nothing() -> None:
    heads = PlainHeads()
    for n in range(3000):
        head = b"HTTP/1.1 200 OK %d\r\nX-%d: %d\r\nContent-Length: %d\r\n\r\n" % (n, n, n, n)
        for _ in range(2):
            assert heads[head] == (200, {f"x-{n}": str(n), "content-length": str(n)}, n)
    assert max(len(heads), len(heads._firsts), len(heads._lines)) <= 1024
    long = b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 1\r\n\r\n" % (b"y" * 4096)
    fresh = PlainHeads()
    assert fresh[long] is not None and not fresh and len(fresh._lines) == 1


@given(st.integers(0, len(STREAM)), st.binary(max_size=6), st.integers(0, 8))
def test_plain_chunks_are_what_the_parser_reads(at: int, put: bytes, drop: int) -> None:
    data, pieces = STREAM[:at] + put + STREAM[at + drop :], list[bytes]()
    last = plain_chunks(data, pieces)
    if last is None:
        return
    seen = _parsed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    assert (b"".join(pieces), last) == (seen.body, seen.whole)


def test_chunks_that_are_whole_and_others() -> None:
    pieces: list[bytes] = []
    assert plain_chunks(STREAM, pieces) is True and pieces == [b"abc", b"0123456789"]
    assert plain_chunks(STREAM[:8], []) is False
    big = b"x" * 70_000
    assert plain_chunks(b"11170\r\n" + big + b"\r\n", pieces) is False and pieces[-1] == big
    for odd in (
        STREAM[:7],
        STREAM + b"\n",
        b"0x3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"3;a=b\r\nabc\r\n",
        b"\r\n",
        b"0\r\nX: y\r\n\r\n",
    ):
        assert plain_chunks(odd, []) is None
    assert CHUNKED < 0
