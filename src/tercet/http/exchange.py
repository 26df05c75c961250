"""The client's side of one request and its answer: head, framing and completion, as bytes come in."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import Protocol

import httptools

from tercet.http.errors import ClientError, Reason
from tercet.http.plain import CHUNKED, SIZES, plain_chunks, plain_head
from tercet.http.upstream import Upstream
from tercet.http.wire import LAST_CHUNK, has_body

_HELD_BYTES = 256 * 1024
_BROKEN = (httptools.HttpParserError, httptools.HttpParserUpgrade)
"""What the parser raises: for bad HTTP, and for a switch to another protocol that nobody asked for."""
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Sink(Protocol):
    """Where the body goes, once that is known."""

    def read(self, raw: bytes, pieces: list[bytes], now_ns: int) -> None:
        """Take what one socket read brought: `raw` as framed, `pieces` decoded."""

    def ended(self, error: ClientError | None) -> None:
        """The body is complete, or never will be."""


class Exchange:
    """Parses one answer. Until a sink is set the body's bytes are held as they came; reading pauses at 256 KiB.

    A plain answer is read without a parser, one that turns out not to be plain is given to it where that shows.
    """

    __slots__ = (
        "_bounded",
        "_complete",
        "_extra",
        "_gone",
        "_gone_why",
        "_head",
        "_held",
        "_held_size",
        "_interim_bytes",
        "_keep_alive",
        "_left",
        "_loop",
        "_max_header_bytes",
        "_method",
        "_parser",
        "_pieces",
        "_sink",
        "_upstream",
        "_waiter",
        "abandoned",
        "body_began",
        "chunked",
        "error",
        "head_ns",
        "headers",
        "on_body",
        "started_ns",
        "status",
    )

    def __init__(self, upstream: Upstream, method: str, max_header_bytes: int) -> None:
        self._upstream: Upstream | None = upstream
        self._method = method
        self._max_header_bytes = max_header_bytes
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called by the parser: no Python frame for a piece
        self._parser: httptools.HttpResponseParser | None = None
        self._left = 0
        self._head = b""
        self._held: list[tuple[bytes, int]] = []
        self._held_size = 0
        self._interim_bytes = 0
        self._sink: Sink | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._complete = False
        self._extra = False
        self._gone = False
        self._gone_why: Exception | None = None
        self._bounded = True
        self._keep_alive = False
        self.abandoned = False
        self.body_began = False
        self.chunked = False
        self.error: ClientError | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.started_ns = 0
        self.head_ns = 0

    @property
    def untouched(self) -> bool:
        """True when not a byte of an answer came."""
        return not self.head_ns and not self._head

    async def begin(self, head: bytes, body: bytes, first_byte_timeout_s: float, idle_timeout_s: float) -> None:
        """Send the request and wait for the answer's head. Raises ClientError."""
        upstream = self._upstream
        assert upstream is not None
        self.started_ns = perf_counter_ns()
        self._loop = upstream.loop
        upstream.exchange = self
        upstream.idle_ns = int(idle_timeout_s * 1e9)
        upstream.deadline_ns = self.started_ns + int(first_byte_timeout_s * 1e9)
        upstream.send(head, body)
        del body  # it may be large, and the wait long
        try:
            await self._wait()
        except BaseException:
            self.close()
            raise
        if not self.head_ns and self.error is not None:
            raise self.error

    def close(self) -> None:
        """Let go of the answer: a connection that is still in use for it is closed."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    # --- driven by the connection ---

    def received(self, data: bytes, now_ns: int) -> None:
        """Take bytes from the socket."""
        if not self.head_ns:
            try:
                self._head_received(self._head + data if self._head else data, now_ns)
            except _BROKEN as error:
                self._malformed(error)
            return
        upstream = self._upstream
        if upstream is None:
            return
        self.body_began = True
        upstream.deadline_ns = now_ns + upstream.idle_ns
        sink = self._sink
        if sink is not None:
            if self._parser is None and self.chunked:
                end = data.find(b"\r\n", 0, 6)
                size = SIZES.get(data[:end])
                if size and len(data) == end + size + 4 and data[-2:] == b"\r\n":
                    sink.read(data, [data[end + 2 : -2]], now_ns)  # one whole chunk, as most reads are
                    return
            self._parse(sink, data, now_ns)
            return
        self._held.append((data, now_ns))
        self._held_size += len(data)
        if self._held_size > _HELD_BYTES:
            upstream.pause()

    def lost(self, error: Exception | None) -> None:
        """The connection ended: right for a body without a length, else a failure, unless held bytes complete it."""
        self._upstream = None
        self._gone = True
        self._gone_why = error
        if not self.head_ns or self._sink is not None:
            self._after_loss()

    def timed_out(self) -> None:
        """The deadline passed."""
        upstream = self._upstream
        if self.body_began and upstream is not None:
            self._fail("idle_timeout", f"the answer stood still for {upstream.idle_ns / 1e9:g} s")
        else:
            waited = (perf_counter_ns() - self.started_ns) / 1e9
            self._fail("first_byte_timeout", f"no answer came within {waited:.1f} s")

    def _head_received(self, data: bytes, now_ns: int) -> None:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end + self._interim_bytes > self._max_header_bytes:
                self._head = data
                if len(data) + self._interim_bytes > self._max_header_bytes:
                    self._fail("protocol", f"the answer's headers are larger than {self._max_header_bytes} bytes")
                return
            rest = data[end + 4 :]
            if self._parser is None:
                plain = plain_head(data[: end + 4])
                if plain is not None and has_body(self._method, plain[0]):
                    self._plain_head_received(plain, rest, now_ns)
                    return
                self._parser = httptools.HttpResponseParser(self)
            self._parser.feed_data(data[: end + 4])
            if self.status >= 200:
                break
            # An interim answer: the real one follows.
            self._complete = False
            self.headers.clear()
            self._interim_bytes += end + 4
            data = rest
        self._head = b""
        self.head_ns = now_ns
        if problem := self._framed():
            self._malformed(problem)
            return
        self._keep_alive = self._parser.should_keep_alive()
        if not self._complete and not has_body(self._method, self.status):
            self._complete = True
            self._keep_alive = False  # the parser would wait for a body that never comes
        if self._complete:
            self._settle(reusable=self._keep_alive and not rest)
        elif rest:
            self.received(rest, now_ns)
        self._wake()

    def _plain_head_received(self, plain: tuple[int, dict[str, str], int], rest: bytes, now_ns: int) -> None:
        self.status, self.headers, self._left = plain
        self._head = b""
        self.head_ns = now_ns
        self.chunked = self._left == CHUNKED
        self._keep_alive = True
        if not self._left:
            self._complete = True
            self._settle(reusable=not rest)
        elif rest:
            self.received(rest, now_ns)
        self._wake()

    def _framed(self) -> str | None:
        """Note how the body is framed; return what is wrong with that: passed on, it must read the same everywhere."""
        length, coding = self.headers.get("content-length"), self.headers.get("transfer-encoding")
        self.chunked = coding is not None
        self._bounded = self.chunked or length is not None
        if coding is not None and coding.strip(" \t").lower() != "chunked":
            return f"its transfer coding is {coding!r}"
        assert self._parser is not None
        version = self._parser.get_http_version()
        if version != "1.1" and (version != "1.0" or coding is not None):
            return f"HTTP/{version}" + (" with Transfer-Encoding" if coding else "")
        if length is not None and len(length) > 19:
            return "its Content-Length is endless"
        return None

    def _parse(self, sink: Sink, data: bytes, now_ns: int) -> None:
        pieces = self._pieces
        if self._parser is None and not self._read_plainly(data, pieces):
            if not self.chunked:
                self._extra = True
                self._fail("protocol", "bytes follow the answer's end")
                return
            pieces.clear()
            self._parser = httptools.HttpResponseParser(self)
            self._parser.feed_data(_CHUNKED_HEAD)  # all before ended with a whole chunk
        if self._parser is not None and not self._read_by_parser(data):
            return
        sink.read(data, pieces, now_ns)
        pieces.clear()
        if self._complete:
            sink.ended(None)
            self._settle(reusable=self._keep_alive)

    def _read_plainly(self, data: bytes, pieces: list[bytes]) -> bool:
        """Read on without a parser. False when that can't be done."""
        if self.chunked:
            last = plain_chunks(data, pieces)
            if last is None:
                return False
            self._complete = last
            return True
        self._left -= len(data)
        pieces.append(data)
        self._complete = not self._left
        return self._left >= 0

    def _read_by_parser(self, data: bytes) -> bool:
        """Read on by the parser. False when that failed."""
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except _BROKEN as error:
            self._malformed(error)
            return False
        if self._extra or (self._complete and self.chunked and _surplus(data)):
            self._extra = True
            self._fail("protocol", "bytes follow the answer's end")
            return False
        return True

    # --- for the taker of the body ---

    def _flow_to(self, sink: Sink) -> None:
        """Send the body to `sink`: what was held at once, the rest as it comes."""
        if self._sink is not None:
            raise RuntimeError("the answer's body was already taken")
        self._sink = sink
        held, self._held = self._held, []
        if self.error is not None:
            sink.ended(self.error)
        elif self._complete:
            sink.ended(None)
        for data, now_ns in held:
            if self.error is None:
                self._parse(sink, data, now_ns)
        if self._gone:
            self._after_loss()
        elif self._upstream is not None:
            self._upstream.resume()

    async def _wait(self) -> None:
        assert self._loop is not None
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _whole_chunks(self) -> bool:
        """True when what came so far ends with a whole chunk. Asks the parser whether a last chunk would end the body
        here; it is of no further use then. Without a parser only whole chunks were read."""
        if self._parser is None:
            return True
        try:
            self._parser.feed_data(LAST_CHUNK)
        except _BROKEN:
            return False
        return self._complete

    # --- ends ---

    def _after_loss(self) -> None:
        if self._complete or self.error is not None:
            return
        if self._gone_why is not None:
            self._fail("closed", f"the connection broke before the answer was complete: {self._gone_why}")
        elif not self.head_ns or self._bounded:
            self._fail("closed", "the server closed the connection before its answer was complete")
        else:
            self._complete = True
            if self._sink is not None:
                self._sink.ended(None)

    def _fail(self, reason: Reason, message: str) -> None:
        if self.error is None and not self._finished():
            self.error = ClientError(message, before_first_byte=not self.body_began, reason=reason)
            self.close()
            if self._sink is not None:
                self._sink.ended(self.error)
        self._wake()

    def _malformed(self, error: Exception | str) -> None:
        self._complete = False  # it may be, with bytes after its end
        self._fail("protocol", f"malformed answer: {error}")

    def _finished(self) -> bool:
        return self._complete and not self._extra

    def _settle(self, *, reusable: bool) -> None:
        self._parser = None  # it refers back to this exchange
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if reusable:
            upstream.release()
        else:
            upstream.abort()

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        """A second answer on one request is one too many."""
        if self._complete:
            self._extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; trailers are dropped."""
        if self.head_ns:
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        known = self.headers.get(key)
        self.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        """Take the status."""
        if not self.head_ns:
            assert self._parser is not None
            self.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._complete = True


def _surplus(data: bytes) -> bool:
    """True when line ends follow those that end a chunked body: the parser skips them, a client need not."""
    rest = data.rstrip(b"\r\n")
    ends = data[len(rest) :]
    return ends != b"\r\n\r\n" if rest else not b"\r\n\r\n".endswith(ends)
