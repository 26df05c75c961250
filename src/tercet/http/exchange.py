"""The client's side of one request and its answer: head, framing and completion, as bytes come in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Protocol

from tercet.http.answer_reader import BROKEN, AnswerReader
from tercet.http.errors import ClientError, Reason
from tercet.http.plain import CHUNKED, plain_chunks
from tercet.http.upstream import Upstream
from tercet.http.wire import JOIN_LIMIT, Body

_HELD_BYTES = 256 * 1024
_NONE: Mapping[str, str] = {}


class Sink(Protocol):
    """Where the body goes, once that is known. `last_ns` is when it last read past `received`; 0 if it never did."""

    last_ns: int

    def read(self, raw: bytes, pieces: list[bytes], now_ns: int) -> None:
        """Take what one socket read brought: `raw` as framed, `pieces` decoded."""

    def ended(self, error: ClientError | None) -> None:
        """The body is complete, or never will be."""


class Exchange:
    """Reads one answer. Until a sink is set the body's bytes are held as they came; reading pauses at 256 KiB.

    A plain answer is read without a parser, one that turns out not to be plain is given to it where that shows. A plain
    one that came whole in one read gives its connection back at once, and is held as `_whole`.
    """

    abandoned = False
    body_began = False
    chunked = False
    error: ClientError | None = None
    head_ns = 0
    headers: Mapping[str, str] = _NONE
    started_ns = 0
    status = 0
    _complete = False
    _gone = False
    _gone_why: Exception | None = None
    _head = b""
    _held: list[tuple[bytes, int]] | None = None
    _held_size = 0
    _left = 0
    _reader: AnswerReader | None = None
    _sink: Sink | None = None
    _taken = False
    _waiter: asyncio.Future[None] | None = None
    _whole: bytes | None = None

    def __init__(self, upstream: Upstream, method: str, max_header_bytes: int) -> None:
        self._upstream: Upstream | None = upstream
        self._method = method
        self._max_header_bytes = max_header_bytes

    @property
    def untouched(self) -> bool:
        """True when not a byte of an answer came."""
        return not self.head_ns and not self._head

    def send(
        self, request: bytes, body: Body, first_byte_timeout_s: float, idle_timeout_s: float
    ) -> asyncio.Future[None]:
        """Send the request, whose head is `request`. The future is done when the answer's head has come, or `error` is
        set because it won't; who stops waiting for it closes the exchange."""
        upstream = self._upstream
        assert upstream is not None and upstream.transport is not None
        self.started_ns = now_ns = perf_counter_ns()
        upstream.exchange = self
        upstream.take = self.received
        upstream.idle_ns = int(idle_timeout_s * 1e9)
        upstream.deadline_ns = now_ns + int(first_byte_timeout_s * 1e9)
        if not isinstance(body, bytes):
            upstream.transport.writelines((request, *body))
        elif len(body) <= JOIN_LIMIT:
            upstream.transport.write(request + body)
        else:
            upstream.transport.writelines((request, body))
        self._waiter = begun = asyncio.get_running_loop().create_future()
        return begun

    def close(self) -> None:
        """Let go of the answer: a connection that is still in use for it is closed."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    # --- driven by the connection ---

    def received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        now_ns = perf_counter_ns()
        if self.head_ns:
            self._body_received(data, now_ns)
            return
        try:
            if self._head:
                data = self._head + data
            elif self._reader is None and self._begin_plainly(data, now_ns):
                return
            self._head_received(data, now_ns)
        except BROKEN as error:
            self._malformed(error)

    def lost(self, error: Exception | None) -> None:
        """The connection ended: right for a body without a length, else a failure, unless held bytes complete it."""
        self._upstream = None
        self._gone = True
        self._gone_why = error
        if not self.head_ns or self._sink is not None:
            self._after_loss()

    def due_ns(self) -> int:
        """Return when the body's next bytes are due, if they came without moving the connection's deadline; else 0."""
        sink, upstream = self._sink, self._upstream
        return sink.last_ns + upstream.idle_ns if sink is not None and sink.last_ns and upstream is not None else 0

    def timed_out(self) -> None:
        """The deadline passed."""
        upstream = self._upstream
        if self.body_began and upstream is not None:
            self._fail("idle_timeout", f"the answer stood still for {upstream.idle_ns / 1e9:g} s")
        else:
            waited = (perf_counter_ns() - self.started_ns) / 1e9
            self._fail("first_byte_timeout", f"no answer came within {waited:.1f} s")

    # --- the head ---

    def _begin_plainly(self, data: bytes, now_ns: int) -> bool:
        """Read a whole plain head, and what follows it. False when `data` begins otherwise: nothing was read then."""
        end, upstream = data.find(b"\r\n\r\n") + 4, self._upstream
        if not 4 <= end <= self._max_header_bytes or self._method == "HEAD" or upstream is None:
            return False
        plain = upstream.heads[data[:end]]
        if plain is None:
            return False
        self.status, self.headers, left = plain
        self.head_ns = now_ns
        rest = len(data) - end
        if rest == left or not left:
            self._whole = data[end : end + left]
            self.body_began = rest > 0
            self._complete = True
            self._upstream = None
            if rest == left:
                upstream.release()
            else:
                upstream.abort()
        else:
            self._left = left
            self.chunked = left == CHUNKED
            if rest:
                self._body_received(data[end:], now_ns)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        return True

    def _head_received(self, data: bytes, now_ns: int) -> None:
        reader = self._reader
        while True:
            end = data.find(b"\r\n\r\n") + 4
            before = 0 if reader is None else reader.interim_bytes
            if end < 4 or end - 4 + before > self._max_header_bytes:
                self._head = data
                if len(data) + before > self._max_header_bytes:
                    self._fail("protocol", f"the answer's headers are larger than {self._max_header_bytes} bytes")
                return
            if reader is None:
                if self._begin_plainly(data, now_ns):
                    return
                reader = self._reader = AnswerReader(self._method)
            if reader.read_head(data[:end]):
                break
            data = data[end:]
        self.status, self.headers, self.chunked = reader.status, reader.headers, reader.chunked
        self.head_ns = now_ns
        if problem := reader.misframed():
            self._malformed(problem)
            return
        if reader.complete:
            self._complete = True
            self._settle(reusable=reader.keep_alive and len(data) == end)
        elif len(data) > end:
            self._body_received(data[end:], now_ns)
        self._wake()

    # --- the body ---

    def _body_received(self, data: bytes, now_ns: int) -> None:
        upstream = self._upstream
        if upstream is None:
            return
        self.body_began = True
        upstream.deadline_ns = now_ns + upstream.idle_ns
        if self._sink is not None:
            self._read(self._sink, data, now_ns)
            return
        if self._held is None:
            self._held = []
        self._held.append((data, now_ns))
        self._held_size += len(data)
        if self._held_size > _HELD_BYTES:
            upstream.pause()

    def _read(self, sink: Sink, data: bytes, now_ns: int) -> None:
        pieces = self._read_plainly(data) if self._reader is None else None
        if pieces is None and (pieces := self._read_by_parser(data)) is None:
            return
        sink.read(data, pieces, now_ns)
        if self._complete:
            sink.ended(None)
            self._settle(reusable=self._reader is None or self._reader.keep_alive)

    def _read_plainly(self, data: bytes) -> list[bytes] | None:
        """Read on without a parser. None when that can't be done."""
        if self.chunked:
            pieces: list[bytes] = []
            last = plain_chunks(data, pieces)
            if last is None:
                return None
            self._complete = last
            return pieces
        if len(data) > self._left:
            return None
        self._left -= len(data)
        self._complete = not self._left
        return [data]

    def _read_by_parser(self, data: bytes) -> list[bytes] | None:
        """Read on by the parser. None when that failed."""
        reader = self._reader
        if reader is None:
            if not self.chunked:
                self._fail_after_end()
                return None
            reader = self._reader = AnswerReader.amid_chunks()  # all before ended with a whole chunk
            if self._upstream is not None:
                self._upstream.take = self.received  # nothing else may read on from here
        try:
            pieces = reader.read(data)
        except BROKEN as error:
            self._malformed(error)
            return None
        if reader.extra:
            self._fail_after_end()
            return None
        self._complete = reader.complete
        return pieces

    # --- for the taker of the body ---

    def _flow_to(self, sink: Sink) -> None:
        """Send the body to `sink`: what was held at once, the rest as it comes."""
        if self._taken:
            raise RuntimeError("the answer's body was already taken")
        self._taken = True
        whole, self._whole = self._whole, None
        if whole is not None:
            if whole:
                sink.read(whole, [whole], self.head_ns)
            sink.ended(None)
            return
        self._sink = sink
        held, self._held = self._held, None
        if self.error is not None:
            sink.ended(self.error)
        elif self._complete:
            sink.ended(None)
        if self._upstream is not None:
            self._upstream.resume()  # before the sink is given what was held, which may be too much for it
        for data, now_ns in held or ():
            if self.error is None:
                self._read(sink, data, now_ns)
        if self._gone:
            self._after_loss()

    def _wait(self) -> asyncio.Future[None]:
        """Return what is done at the next `_wake`."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def _let_go(self) -> None:
        """Close, and leave nothing behind that only the garbage collector would find: the sink refers back here."""
        self.close()
        self._sink = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- ends ---

    def _after_loss(self) -> None:
        if self._complete or self.error is not None:
            return
        if self._gone_why is not None:
            self._fail("closed", f"the connection broke before the answer was complete: {self._gone_why}")
        elif not self.head_ns or self._reader is None or self._reader.bounded:
            self._fail("closed", "the server closed the connection before its answer was complete")
        else:
            self._complete = True
            if self._sink is not None:
                self._sink.ended(None)

    def _fail(self, reason: Reason, message: str) -> None:
        if self.error is None and not self._complete:
            self.error = ClientError(message, before_first_byte=not self.body_began, reason=reason)
            self.close()
            if self._sink is not None:
                self._sink.ended(self.error)
        self._wake()

    def _fail_after_end(self) -> None:
        self._complete = False
        self._fail("protocol", "bytes follow the answer's end")

    def _malformed(self, error: Exception | str) -> None:
        self._complete = False  # it may be, with bytes after its end
        self._fail("protocol", f"malformed answer: {error}")

    def _settle(self, *, reusable: bool) -> None:
        if self._reader is not None:
            self._reader.close()
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if reusable:
            upstream.release()
        else:
            upstream.abort()
