"""What is fuzzed: both HTTP parsers, fed in pieces that the input itself chooses.

Each target raises AssertionError for a fault: an exception of another kind than a refusal, a bound overstepped, or a
reading that depends on where the bytes were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tercet.core.errors import RequestError
from tercet.http.exchange import Exchange
from tercet.http.known_heads import KnownHeads
from tercet.http.limits import ServerLimits
from tercet.http.plain import PlainHeads
from tercet.http.request import Request
from tercet.http.request_reader import RequestReader
from tercet.http.upstream import Upstream

LIMITS = ServerLimits(max_header_bytes=2048, max_body_bytes=4096, max_headers=16)
Target = Callable[[bytes], None]


class _Taker:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes, dict[str, str], bool]] = []

    def body_follows(self) -> None:
        pass

    def body_is_long(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        pass

    def request_read(self, request: Request, *, http10: bool, keep_alive: bool) -> None:
        assert len(request.body) <= LIMITS.max_body_bytes and len(request.headers) <= LIMITS.max_headers
        assert not any(c in value for value in request.headers.values() for c in "\r\n\0")
        assert " " not in request.target and request.target[0] in "/*"
        framings = ("content-length" in request.headers) + ("transfer-encoding" in request.headers)
        assert framings < 2 and not (http10 and "transfer-encoding" in request.headers)
        assert http10 or "host" in request.headers
        if "content-length" in request.headers:
            assert len(request.body) == int(request.headers["content-length"])
        self.seen.append((request.method, request.target, request.body, dict(request.headers), keep_alive))


def _cut(data: bytes) -> list[bytes]:
    """Cut `data[1:]` into pieces as its first byte says."""
    step = data[0] % 23 + 1 if data else 1
    return [data[i : i + step] for i in range(1, len(data), step)]


def requests(data: bytes) -> None:
    """Read `data` as what a client sends, whole and in pieces: what was understood must be the same."""
    whole, pieces = _Taker(), _Taker()
    refused = [_read(whole, [data[1:]]), _read(pieces, _cut(data))]
    if refused[0] == refused[1]:
        assert whole.seen == pieces.seen
    else:  # a bound is looked at once a read: where it was met may differ, what came before must not
        short, long = sorted((whole.seen, pieces.seen), key=len)
        assert long[: len(short)] == short and {413, 431} & set(refused)
    known, again = KnownHeads(), _Taker()
    _read(_Taker(), [data[1:]], known)
    assert _read(again, [data[1:]], known) == refused[0] and again.seen == whole.seen


def _read(taker: _Taker, pieces: list[bytes], known: KnownHeads | None = None) -> int | None:
    reader = RequestReader(LIMITS, taker, "fuzz", known)
    try:
        for piece in pieces:
            reader.feed(piece)
    except RequestError as error:
        assert error.status in (400, 405, 413, 417, 431, 501, 505), error.status
        return error.status
    finally:
        reader.close()
    return None


class _Pool:
    keep_alive_ns = 10**9

    def __init__(self, heads: PlainHeads) -> None:
        self.heads = heads

    def opened(self, upstream: Upstream) -> None:
        pass

    def release(self, upstream: Upstream) -> None:
        pass

    def forget(self, upstream: Upstream) -> None:
        pass


class _Sink:
    last_ns = 0

    def __init__(self) -> None:
        self.raw = b""
        self.body = b""
        self.end: str | None = None

    def read(self, raw: bytes, pieces: list[bytes], now_ns: int) -> None:
        assert self.end is None, "bytes after the end"
        self.raw += raw
        self.body += b"".join(pieces)

    def ended(self, error: Exception | None) -> None:
        assert self.end is None, "ended twice"
        self.end = "whole" if error is None else "broken"


class _Reading(Exchange):
    def take(self, sink: _Sink) -> None:
        self._flow_to(sink)


def answers(data: bytes) -> None:
    """Read `data` as a worker's answer, whole and in pieces."""
    heads = PlainHeads()
    whole, pieces, again = _answer([data[1:]], heads), _answer(_cut(data), heads), _answer([data[1:]], heads)
    assert whole == again, "a head that came before is read otherwise"
    # One may be refused for bytes behind its end that the other, cut there, never came to see.
    assert whole == pieces or None in (whole, pieces), (whole, pieces)


def _answer(pieces: list[bytes], heads: PlainHeads) -> tuple[int, str | None, bytes] | None:
    upstream = Upstream(_Pool(heads), ("fuzz", 1, False))
    exchange = _Reading(upstream, "GET", 2048)
    upstream.exchange = exchange
    sink = _Sink()
    taken = False
    for piece in pieces:
        exchange.received(piece)
        if exchange.head_ns and exchange.error is None and not taken:
            exchange.take(sink)
            taken = True
        if exchange.error is not None or sink.end is not None:
            break
    exchange.lost(None)
    if exchange.error is not None or not taken:
        return None  # what is broken reaches nobody whole: how much of it came before depends on the cuts
    if exchange.chunked and sink.end == "whole" and sink.raw:  # no 204 has a body, whatever its headers say
        assert _dechunked(sink.raw) == sink.body, "what is passed on undecoded is not what was decoded"
    return exchange.status, sink.end, sink.body


def _dechunked(raw: bytes) -> bytes:
    """Read chunks as the plainest reader would."""
    body, at = b"", 0
    while True:
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end].partition(b";")[0], 16)
        at = end + 2
        if size == 0:
            assert raw.endswith(b"\r\n", at)
            return body
        body += raw[at : at + size]
        assert raw[at + size : at + size + 2] == b"\r\n"
        at += size + 2


TARGETS: dict[str, Target] = {"requests": requests, "answers": answers}
