"""The answer to one request, as its taker sees it: read whole, in pieces, or relayed."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

from tercet.http.errors import ClientError
from tercet.http.exchange import Exchange
from tercet.http.relay import OnFirst, Relay, Relayed, Rewriter, pass_whole
from tercet.http.responder import Responder

_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024


class Response(Exchange):
    """One answer. Header names are lower case; repeated headers are joined with ", ".

    All times are perf_counter_ns: `started_ns` when the request was written, `head_ns` when the head was read.
    The body is taken once, by `read`, `chunks` or `relay`; if not, call `close`. The connection goes back to the pool
    when the body is complete, and is closed when the body is not wanted to its end: also when the task is cancelled.
    """

    async def read(self, *, max_bytes: int = 256 * 1024 * 1024) -> bytes:
        """Return the whole body. Raises ClientError, also when it is larger than `max_bytes`."""
        whole, self._whole = self._whole, None
        if whole is None:
            whole = await self._gather(max_bytes)
        self._taken = True
        if len(whole) > max_bytes:
            raise ClientError(
                f"the answer is larger than {max_bytes} bytes", before_first_byte=False, reason="too_large"
            )
        return whole

    async def _gather(self, max_bytes: int) -> bytes:
        whole = _Whole(self, max_bytes)
        try:
            self._flow_to(whole)
            while not whole.done:
                await self._wait()
        finally:
            self._let_go()
        if self.error is not None:
            raise self.error
        pieces = whole.pieces
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunks(self, *, at_once: int = 1) -> AsyncIterator[tuple[bytes, int]]:
        """Yield pieces of the decoded body with the time they were read from the socket. Raises ClientError.

        With `at_once` above 1 they are handed over when so many have gathered, or the body ends: their times are the
        same, and a taker that needs no piece at once is woken less often.
        """
        queue = _Queue(self, at_once)
        try:
            self._flow_to(queue)
            while True:
                while queue.pieces:
                    yield queue.pop()
                if queue.done:
                    break
                await self._wait()
            if self.error is not None:
                raise self.error
        finally:
            self._let_go()

    async def relay(
        self,
        responder: Responder,
        *,
        headers: Iterable[tuple[str, str]] = (),
        on_first: OnFirst | None = None,
        tail_bytes: int = 0,
        rewriter: Rewriter | None = None,
    ) -> Relayed:
        """Pass the body on to `responder`, undecoded where both sides are framed alike and no `rewriter` changes it.

        `on_first(now_ns, first)` is called when the `first` body bytes were read and nothing was written yet; it may
        return more headers, and may raise: the answer is then not begun. If it did not start `responder` itself, the
        answer starts with this one's status and content type, `headers`, and what it returned. The last `tail_bytes` of
        the decoded body are in the result. When the server fails half-way a ClientError is raised; `responder` can then
        still be written to and finished, unless the failure left a chunk half sent: then it is aborted.
        """
        whole = self._whole
        if whole is not None and rewriter is None:
            self._whole, self._taken = None, True
            return pass_whole(self, whole, responder, headers, on_first, tail_bytes)
        relay = Relay(self, responder, headers, on_first, tail_bytes, rewriter)
        try:
            if self._upstream is not None:
                responder.attach(self._upstream)
            self._flow_to(relay)
            while not relay.done:
                await self._wait()
        finally:
            responder.attach(None)
            self._let_go()
        return relay.result()

    def half_close(self) -> None:
        """Tell the server that nobody waits for this answer any more, yet take it if it is on its way already."""
        if self._upstream is not None:
            self._upstream.half_close()

    def wake(self) -> None:
        """Let the taker of the body go on."""
        self._wake()

    def whole_chunks(self) -> bool:
        """True when what came of a failed answer ends with a whole chunk."""
        return self._reader is None or self._reader.whole_chunks()

    def shortcut(self, take: Callable[[bytes], None]) -> None:
        """Have the connection hand what it reads straight to the sink's `take`, as long as it is read plainly. `take`
        gives back to `received` what is not one whole chunk, and notes when it read in `last_ns`."""
        if self._upstream is not None and self._reader is None:
            self._upstream.take = take

    def pause(self) -> None:
        """Stop reading from the socket."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        """Read on."""
        if self._upstream is not None:
            self._upstream.resume()


class _Whole:
    """The sink of `read`."""

    __slots__ = ("_max", "_response", "done", "pieces", "size")
    last_ns = 0

    def __init__(self, response: Response, max_bytes: int) -> None:
        self._response = response
        self._max = max_bytes
        self.size = 0
        self.pieces: list[bytes] = []
        self.done = False

    def read(self, raw: bytes, pieces: list[bytes], now_ns: int) -> None:
        for piece in pieces:
            self.pieces.append(piece)
            self.size += len(piece)
        if self.size > self._max:
            self.ended(None)

    def ended(self, error: ClientError | None) -> None:
        self.done = True
        self._response.wake()


class _Queue:
    """The sink of `chunks`: pieces with their times, bounded by pausing the socket."""

    __slots__ = ("_at_once", "_response", "_size", "done", "pieces")
    last_ns = 0

    def __init__(self, response: Response, at_once: int) -> None:
        self._response = response
        self._at_once = at_once
        self._size = 0
        self.pieces: deque[tuple[bytes, int]] = deque()
        self.done = False

    def read(self, raw: bytes, pieces: list[bytes], now_ns: int) -> None:
        for piece in pieces:
            self.pieces.append((piece, now_ns))
            self._size += len(piece)
        if self._size > _HIGH_WATER:
            self._response.pause()
            self._response.wake()
        elif len(self.pieces) >= self._at_once:
            self._response.wake()

    def ended(self, error: ClientError | None) -> None:
        self.done = True
        self._response.wake()

    def pop(self) -> tuple[bytes, int]:
        item = self.pieces.popleft()
        before, self._size = self._size, self._size - len(item[0])
        if before >= _LOW_WATER > self._size:
            self._response.resume()
        return item
