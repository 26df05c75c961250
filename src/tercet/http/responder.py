"""The answer to one request."""

from __future__ import annotations

import asyncio
from typing import Protocol

from tercet.http.wire import JOIN_LIMIT, LAST_CHUNK, WITH_BODY, Headers, chunk, fields, has_body, response_head


class Source(Protocol):
    """What feeds a stream: told when the client reads too slowly, and when it left."""

    def pause(self) -> None:
        """Stop writing until `resume`."""

    def resume(self) -> None:
        """Writing may go on."""

    def lost(self) -> None:
        """The client is gone: stop for good."""


class Channel(Protocol):
    """The connection under a responder."""

    transport: asyncio.Transport
    source: Source | None
    writing_paused: bool

    async def wait_writable(self) -> None:
        """Return when the write buffer has drained, or the client left."""

    def answered(self, responder: Responder, *, keep_alive: bool) -> None:
        """The answer is complete; the next request may start."""


class Responder:
    """Sends one answer: either `send`, or `start`, `write`..., `finish`. Writing after the client left does nothing.

    Streams are chunked, or delimited by closing for an HTTP/1.0 client; with `content_length` they are sent as
    they are. The answer to HEAD carries the headers alone.
    """

    finished = False
    started = False
    status = 0
    _chunked = False
    _head: bytes | None = None
    _left: int | None = None
    _mute = False

    def __init__(self, channel: Channel, method: str, *, http10: bool, keep_alive: bool) -> None:
        self._channel = channel
        self._method = method
        self._http10 = http10
        self._keep_alive = keep_alive

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's transport."""
        return self._channel.transport

    @property
    def chunked(self) -> bool:
        """True when the started stream is framed in chunks."""
        return self._chunked

    @property
    def gone(self) -> bool:
        """True when the client has left: nothing that is written now arrives."""
        return self.finished or self._channel.transport.is_closing()

    def close_after(self) -> None:
        """Close the connection once this answer is sent."""
        self._keep_alive = False

    async def send(
        self, status: int, body: bytes, *, headers: Headers = (), content_type: str = "application/json"
    ) -> None:
        """Send a whole answer. Waits only when the client reads too slowly."""
        self.send_now(status, body, headers=headers, content_type=content_type)
        if self._channel.writing_paused:
            await self._channel.wait_writable()

    def send_now(
        self, status: int, body: bytes, *, headers: Headers = (), content_type: str = "application/json"
    ) -> None:
        """Send a whole answer, also when the client reads too slowly."""
        if self.started:
            raise RuntimeError("the answer was already started")
        first = WITH_BODY.get(status) if self._keep_alive and not self._http10 and self._method != "HEAD" else None
        if first is None:
            self.start(status, headers=headers, content_type=content_type, content_length=len(body))
            self._left = 0
            if not self._mute:
                self._emit(body)
            self.finish()
            return
        lines = (*headers, ("Content-Type", content_type)) if content_type else headers
        head = f"{first}{fields(lines)}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
        self.status = status
        self.started = self.finished = True
        channel = self._channel
        transport = channel.transport
        if not transport.is_closing():
            if len(body) > JOIN_LIMIT:
                transport.writelines((head, body))
            else:
                transport.write(head + body)
        channel.answered(self, keep_alive=True)

    def start(
        self,
        status: int,
        *,
        headers: Headers = (),
        content_type: str = "text/event-stream",
        content_length: int | None = None,
    ) -> None:
        """Begin an answer whose body follows by `write`. The head leaves with the first bytes, at the latest in the
        event loop's next round. Raises ValueError for a header that could split the answer."""
        if self.started:
            raise RuntimeError("the answer was already started")
        lines = list(headers)
        if content_type:
            lines.append(("Content-Type", content_type))
        bodiless = status < 200 or status == 204
        self._mute = not has_body(self._method, status)
        if content_length is not None:
            if not bodiless:
                lines.append(("Content-Length", str(content_length)))
            self._left = content_length
        elif self._http10:
            self._keep_alive = False
        elif not bodiless:
            lines.append(("Transfer-Encoding", "chunked"))
            self._chunked = not self._mute
        if not self._keep_alive:
            lines.append(("Connection", "close"))
        elif self._http10:
            lines.append(("Connection", "keep-alive"))
        self._head = response_head(status, lines)
        self.started = True
        self.status = status
        if content_length is None:
            asyncio.get_running_loop().call_soon(self._flush_head)

    def write(self, data: bytes) -> None:
        """Write a piece of the body. Raises RuntimeError when more than the announced length is written."""
        if self.finished or self._mute or not data:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.abort()
                raise RuntimeError("the body is longer than its Content-Length")
        self._emit(chunk(data) if self._chunked else data)

    def write_verbatim(self, data: bytes) -> None:
        """Write bytes that are framed already, as this answer's framing asks."""
        if not self.finished and not self._mute:
            self._emit(data)

    async def drain(self) -> None:
        """Wait until the client has read enough to go on."""
        self._flush_head()
        if self._channel.writing_paused:
            await self._channel.wait_writable()

    def finish(self) -> None:
        """End the answer; idempotent. A body shorter than announced aborts the connection."""
        if self.finished or not self.started:
            return
        if self._left and not self._mute:
            self.abort()
            return
        if self._chunked:
            self._emit(LAST_CHUNK)
        self.finish_verbatim()

    def finish_verbatim(self) -> None:
        """End the answer whose last bytes were written by `write_verbatim`."""
        if self.finished:
            return
        self._flush_head()
        self.finished = True
        self._channel.answered(self, keep_alive=self._keep_alive)

    def abort(self) -> None:
        """Cut the connection, so that the client sees a broken answer rather than a short one."""
        if not self.finished:
            self.finished = self.started = True
            self._head = None
            self._channel.transport.abort()

    def attach(self, source: Source | None) -> None:
        """Let `source` know when to pause; None detaches."""
        self._channel.source = source
        if source is not None and self._channel.writing_paused:
            source.pause()

    def _emit(self, data: bytes) -> None:
        transport = self._channel.transport
        if transport.is_closing():
            return
        head = self._head
        if head is None:
            transport.write(data)
        elif len(data) <= JOIN_LIMIT:
            self._head = None
            transport.write(head + data)
        else:
            self._head = None
            transport.writelines((head, data))

    def _flush_head(self) -> None:
        if self._head is not None:
            self._emit(b"")
