from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.errors import RequestError
from tercet.http.known_heads import KnownHeads
from tercet.http.limits import ServerLimits
from tercet.http.request import Request
from tercet.http.request_reader import LONG_BODY_BYTES, RequestReader

STREAM = (
    b"POST /a?x=%20 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    b"GET http://h:1/b%20c?y HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nx-one: 2\r\n\r\n"
    b"\r\n"
    b"POST /c HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nGET"
    b"PUT /d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;e=1\r\nabc\r\n2\r\nde\r\n0\r\nX-One: trailer\r\n\r\n"
    b"GET /e HTTP/1.0\r\n\r\n"
)
SEEN = [
    ("POST", "/a", "x=%20", b"hello", True),
    ("GET", "/b c", "y", b"", True),
    ("POST", "/c", "", b"GET", True),
    ("PUT", "/d", "", b"abcde", True),
    ("GET", "/e", "", b"", False),
]


class _Taker:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.seen: list[tuple[str, str, str, bytes, bool]] = []

    def body_follows(self) -> None:
        pass

    def body_is_long(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        pass

    def request_read(self, request: Request, *, http10: bool, keep_alive: bool) -> None:
        assert (not http10 and "close" not in request.headers.get("connection", "")) == keep_alive
        self.requests.append(request)
        self.seen.append((request.method, request.path, request.query, request.body, keep_alive))


def _read(pieces: list[bytes], limits: ServerLimits | None = None) -> _Taker:
    taker = _Taker()
    reader = RequestReader(limits or ServerLimits(), taker, "c")
    for piece in pieces:
        reader.feed(piece)
    return taker


def test_a_stream_of_requests_in_one_piece_and_byte_by_byte() -> None:
    taker = _read([STREAM])
    assert taker.seen == SEEN
    assert taker.requests[1].headers["x-one"] == "1, 2" and taker.requests[1].target == "/b%20c?y"
    assert "x-one" not in taker.requests[3].headers and "upgrade" not in taker.requests[2].headers
    assert _read([bytes([byte]) for byte in STREAM]).seen == SEEN


@given(st.lists(st.integers(0, len(STREAM)), max_size=10))
def test_splits_change_nothing(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert _read([STREAM[a:b] for a, b in pairwise(edges)]).seen == SEEN


@given(st.binary(max_size=200), st.integers(0, len(STREAM)), st.integers(0, 40))
def test_garbage_is_refused_or_read_but_never_breaks_the_reader(garbage: bytes, at: int, drop: int) -> None:
    try:
        _read([STREAM[:at] + garbage + STREAM[at + drop :]])
    except RequestError as error:
        assert error.status in (400, 405, 413, 417, 431, 501, 505)


@given(st.lists(st.integers(0, len(STREAM)), max_size=10), st.integers(0, len(STREAM)), st.binary(max_size=3))
def test_known_heads_change_nothing(cuts: list[int], at: int, put: bytes) -> None:
    known = KnownHeads()
    edges = [0, *sorted(cuts), len(STREAM)]
    stream = STREAM[:at] + put + STREAM[at:]
    pieces = [stream[a:b] for a, b in pairwise(edges)] + [stream[len(STREAM) :]]

    def read(heads: KnownHeads) -> tuple[list[tuple[str, str, str, bytes, bool]], int]:
        taker, status = _Taker(), 0
        reader = RequestReader(ServerLimits(), taker, "c", heads)
        try:
            for piece in pieces:
                reader.feed(piece)
        except RequestError as error:
            status = error.status
        return taker.seen, status

    assert read(known) == read(known) == read(KnownHeads())


def test_a_known_head_is_read_as_before_and_another_length_is_not_taken_for_it() -> None:
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nContent-Length: 5\r\n\r\n"
    taker, known = _Taker(), KnownHeads()
    reader = RequestReader(ServerLimits(), taker, "c", known)
    for body in (b"hello", b"again", b"cut"):
        reader.feed(head + body)
    assert reader.begun
    reader.feed(b"s!" + head + b"two" + b"23" + head + b"three")
    assert [seen[3] for seen in taker.seen] == [b"hello", b"again", b"cuts!", b"two23", b"three"]
    assert len({tuple(request.headers.items()) for request in taker.requests}) == 1


LENGTHS = [
    b"0",
    b"5",
    b"05",
    b"5 ",
    b" 5",
    b"+5",
    b"-5",
    b"0x5",
    b"5,5",
    b"5, 5",
    b"",
    b"\xb2",
    b"9" * 18,
    b"9" * 30,
    b"5\r\nX: 1",
]
LIKE_EACH_OTHER = [
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %b\r\nX-One: 1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\ncontent-length: %b\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nX-Content-Length: %b\r\nContent-Length: 5\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %b\r\nContent-Length: 5\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %b\r\nConnection: close\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %b\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /a HTTP/1.0\r\nHost: h\r\nContent-Length: %b\r\n\r\n",
    b"POST /a?Content-Length:%b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
]


@pytest.mark.parametrize("head", LIKE_EACH_OTHER)
@pytest.mark.parametrize("first", LENGTHS)
def test_heads_that_differ_by_a_length_are_read_as_if_none_had_come_before(head: bytes, first: bytes) -> None:
    def read(heads: KnownHeads, data: bytes) -> tuple[list[tuple[str, dict[str, str], bytes]], int]:
        taker, status = _Taker(), 0
        try:
            RequestReader(ServerLimits(max_body_bytes=999), taker, "c", heads).feed(data)
        except RequestError as error:
            status = error.status
        return [(seen.target, dict(seen.headers), seen.body) for seen in taker.requests], status

    known = KnownHeads()
    read(known, head % first + b"hello")
    for second in LENGTHS:
        for body in (b"hello", b"", b"hell", b"hello!"):
            data = head % second + body
            assert read(known, data) == read(KnownHeads(), data)


def test_a_head_is_not_known_by_an_end_of_it_nor_where_another_has_begun() -> None:
    """What begins with half a method is no request of its own, to nobody."""
    known = KnownHeads()
    whole = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
    taker = _Taker()
    reader = RequestReader(ServerLimits(), taker, "c", known)
    reader.feed(whole + b"GE")
    assert reader.begun
    reader.feed(b"T /b HTTP/1.1\r\nHost: h\r\n\r\n")
    assert not reader.begun and [request.path for request in taker.requests] == ["/a", "/b"]
    with pytest.raises(RequestError):
        RequestReader(ServerLimits(), _Taker(), "c", known).feed(b"T /b HTTP/1.1\r\nHost: h\r\n\r\n")
    reader.feed(whole)  # learnt
    reader.feed(whole + b"PO")
    with pytest.raises(RequestError):
        reader.feed(whole)


def test_a_length_makes_no_head_unknown() -> None:
    known = KnownHeads()
    reader = RequestReader(ServerLimits(), _Taker(), "c", known)
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: Keep-Alive\r\nContent-Length: %d\r\n\r\n%b"
    reader.feed(head % (5, b"hello"))
    for size in (0, 1, 7000):
        request = reader.known(head % (size, b"x" * size))
        assert request is not None and request.body == b"x" * size and request.headers["content-length"] == str(size)
    assert reader.known(head % (5, b"hell")) is None and reader.known(head % (3, b"hell")) is None
    for n in range(5000):
        reader.feed(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n)
        reader.feed(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1" % n)
    assert max(len(known.heads), len(known._templates)) <= 1024


CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
SMUGGLING = {
    "both framings": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\na",
    "a signed length": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na",
    "a space before the colon": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 1\r\n\r\na",
    "a folded header": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding last": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a bare LF in the head": b"GET / HTTP/1.1\nHost: h\n\n",
    "a bare CR in a header": b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: h\0\r\n\r\n",
    "a bare LF after a chunk size": CHUNKED + b"1\na\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "a chunk size in 0x": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "an endless chunk size": CHUNKED + b"f" * 17 + b"\r\n",
}


@pytest.mark.parametrize("request_bytes", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_ambiguous_framing_is_refused(request_bytes: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        _read([request_bytes])
    assert caught.value.status == 400


class _Asker(_Taker):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []

    def body_is_long(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        assert "host" in headers
        self.asked.append((method, target))


def test_a_long_body_is_asked_about_once_and_only_before_all_of_it_is_here() -> None:
    size = 2 * LONG_BODY_BYTES
    head = b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
    taker = _Asker()
    reader = RequestReader(ServerLimits(), taker, "c")
    for piece in (head % (1, size), b"x" * (size - 2), b"x", b"x", b"\r\n", head % (2, 5) + b"hello"):
        reader.feed(piece)
    assert taker.asked == [("POST", "/1")]
    reader.feed(head % (3, size) + b"x" * size)
    chunked = b"PUT /4 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % size
    for piece in (chunked, b"x" * size, b"\r\n0\r\n\r\n", b"\r\n"):
        reader.feed(piece)
    assert taker.asked == [("POST", "/1"), ("PUT", "/4")]
    assert [(seen[1], len(seen[3])) for seen in taker.seen] == [("/1", size), ("/2", 5), ("/3", size), ("/4", size)]


def test_other_versions_are_refused() -> None:
    for first in (b"GET /\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with pytest.raises(RequestError) as caught:
            _read([first])
        assert caught.value.status in (400, 505)
