"""Passing an answer's body on to a client as it comes, undecoded where both sides are framed alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from tercet.core.record import record
from tercet.http.errors import ClientError
from tercet.http.plain import BEGINS
from tercet.http.responder import Responder
from tercet.http.tail import Tail
from tercet.http.wire import Headers

if TYPE_CHECKING:
    from tercet.http.response import Response

_AT_ONCE = 8

OnFirst = Callable[[int, bytes], Iterable[tuple[str, str]] | None]
"""Called with the time of the first body bytes and what the read brought of them, before anything is written; may
return more headers, may raise."""


class Rewriter(Protocol):
    """Changes a body on its way."""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return what can be passed on."""
        ...

    def end(self) -> bytes:
        """Return what was kept back."""
        ...


@record(frozen=True, slots=True)
class Relayed:
    """What passed. Times are perf_counter_ns at the socket read of the first and the last body bytes (of the head when
    there was no body), `body_bytes` counts decoded bytes, `tail` is their end."""

    first_ns: int
    last_ns: int
    body_bytes: int
    tail: bytes


def pass_whole(
    response: Response, body: bytes, responder: Responder, headers: Headers, on_first: OnFirst | None, tail_bytes: int
) -> Relayed:
    """Pass on a body that is here as a whole."""
    now_ns = response.head_ns
    if on_first is not None and (more := on_first(now_ns, body)):
        headers = [*headers, *more]
    if responder.started:
        responder.write(body)
        responder.finish()
    else:
        kind = response.headers.get("content-type", "")
        responder.send_now(response.status, body, headers=headers, content_type=kind)
    return Relayed(now_ns, now_ns, len(body), body[-tail_bytes:] if tail_bytes else b"")


class Relay:
    """The sink of a relayed body: one call and one write for each socket read."""

    __slots__ = (
        "_chunks",
        "_first_ns",
        "_headers",
        "_on_first",
        "_responder",
        "_response",
        "_rewriter",
        "_tail",
        "_verbatim",
        "_write",
        "done",
        "failure",
        "last_ns",
    )

    def __init__(
        self,
        response: Response,
        responder: Responder,
        headers: Headers,
        on_first: OnFirst | None,
        tail_bytes: int,
        rewriter: Rewriter | None = None,
    ) -> None:
        self._response = response
        self._responder = responder
        self._headers = headers
        self._on_first = on_first
        self._rewriter = rewriter
        self._tail = Tail(tail_bytes)
        self._chunks: list[bytes] = []  # of the tail, still framed
        self._verbatim = False
        self._write: Callable[[bytes], None] | None = None
        self._first_ns = 0
        self.last_ns = 0
        self.failure: Exception | None = None
        self.done = False

    def read(self, raw: bytes, pieces: list[bytes], now_ns: int) -> None:
        """Pass on one socket read."""
        if self._write is not None:
            self._write(raw)
            self._unframe()
        elif self.done or not (self._first_ns or self._begin(now_ns, pieces)):
            return
        elif self._rewriter is not None:
            self.last_ns = now_ns
            for piece in pieces:
                self._pass(self._rewriter.feed(piece))
            return
        elif self._verbatim:
            self._responder.write_verbatim(raw)
            self._write = self._responder.transport.write
            self._response.shortcut(self.chunk)
        else:
            for piece in pieces:
                self._responder.write(piece)
        self.last_ns = now_ns
        self._tail.add(pieces)

    def chunk(self, data: bytes) -> None:
        """Pass on one socket read that is one whole chunk, as most are, and touch as little as can be: what belongs to
        a stream has left the processor's caches by the time its next chunk comes."""
        begin, write = BEGINS.get(len(data)), self._write
        if begin is None or write is None or not (data.startswith(begin) and data.endswith(b"\r\n")):
            self._response.received(data)
            return
        self.last_ns = perf_counter_ns()
        write(data)
        chunks = self._chunks
        chunks.append(data)
        if len(chunks) == _AT_ONCE:
            self._unframe()

    def ended(self, error: ClientError | None) -> None:
        """End the client's answer too, or leave it where the failure left it."""
        if self.done:
            return
        if error is None and (self._first_ns or self._begin(self._response.head_ns, [])):
            if self._rewriter is not None:
                self._pass(self._rewriter.end())
            self._responder.attach(None)
            if self._verbatim:
                self._responder.finish_verbatim()
            else:
                self._responder.finish()
        elif error is not None:
            self.failure = error
            if self._verbatim and not self._response.whole_chunks():
                self._responder.abort()
        self._end()

    def result(self) -> Relayed:
        """Return what passed. Raises the failure."""
        if self.failure is not None:
            raise self.failure
        self._unframe()
        return Relayed(self._first_ns, self.last_ns or self._first_ns, self._tail.size, self._tail.end())

    def _begin(self, now_ns: int, pieces: list[bytes]) -> bool:
        """Start the client's answer. False when `on_first` refused."""
        self._first_ns = now_ns
        response, responder = self._response, self._responder
        try:
            more = self._on_first(now_ns, b"".join(pieces)) if self._on_first is not None else None
            if not responder.started:
                as_long = not response.chunked and self._rewriter is None
                length = response.headers.get("content-length") if as_long else None
                responder.start(
                    response.status,
                    headers=[*self._headers, *more] if more else self._headers,
                    content_type=response.headers.get("content-type", ""),
                    content_length=None if length is None else int(length),
                )
        except Exception as error:  # noqa: BLE001 - a socket's callback: who awaits the relay must get it
            self.failure = error
            self._end()
            return False
        self._verbatim = response.chunked and responder.chunked and self._rewriter is None
        return True

    def _pass(self, piece: bytes) -> None:
        if piece:
            self._responder.write(piece)
            self._tail.add([piece])

    def _unframe(self) -> None:
        """Have the tail take what it should have taken before."""
        chunks, self._chunks = self._chunks, []
        if chunks:
            self._tail.add([chunk[len(BEGINS[len(chunk)]) : -2] for chunk in chunks])

    def _end(self) -> None:
        self.done = True
        self._write = None
        self._response.wake()
