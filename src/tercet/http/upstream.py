"""One connection of the client to a server, used for one exchange at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol, cast

from tercet.http.deadlines import NEVER
from tercet.http.plain import PlainHeads

Key = tuple[str, int, bool]
"""Host, port, and whether the connection is encrypted."""


class Exchange(Protocol):
    """What reads a connection while a request is answered on it. `abandoned`: this side gave the request up."""

    abandoned: bool

    def lost(self, error: Exception | None) -> None:
        """The connection is gone."""

    def due_ns(self) -> int:
        """Return when something is due, if that is later than the connection's deadline says; else 0."""

    def timed_out(self) -> None:
        """Nothing came in time; the connection is cut."""


class Pool(Protocol):
    """Who keeps idle connections. `heads` are those that servers sent before."""

    heads: PlainHeads
    keep_alive_ns: int

    def opened(self, upstream: Upstream) -> None:
        """A connection was made."""

    def release(self, upstream: Upstream) -> None:
        """Take a connection back, ready for another request."""

    def forget(self, upstream: Upstream) -> None:
        """A connection is gone."""


class Upstream(asyncio.Protocol):
    """A pooled connection. `take` gets what is read, `exchange` hears of everything else. `deadline_ns` is moved by the
    exchange; `idle_ns` is the longest silence within a body."""

    __slots__ = (
        "_half_closed",
        "_pool",
        "_reading_paused",
        "deadline_ns",
        "exchange",
        "heads",
        "idle_ns",
        "key",
        "take",
        "transport",
    )

    def __init__(self, pool: Pool, key: Key) -> None:
        self._pool = pool
        self._half_closed = False
        self._reading_paused = False
        self.key = key
        self.heads = pool.heads
        self.take: Callable[[bytes], None] | None = None
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport | None = None
        self.deadline_ns = NEVER
        self.idle_ns = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        """Hand the bytes on."""
        take = self.take
        if take is None:
            self.abort()  # a server may not speak unasked
        else:
            take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the exchange."""
        self._pool.forget(self)
        self.deadline_ns = NEVER
        self.transport = None
        self.take = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost(exc)

    def expired(self) -> None:
        """The exchange's deadline passed, or the connection was idle long enough."""
        exchange = self.exchange
        if exchange is not None and (due_ns := exchange.due_ns()) > self.deadline_ns:
            self.deadline_ns = due_ns  # be it over by now: the next look judges, as this process may have stood still
            return
        self.deadline_ns = NEVER
        self.exchange = None
        if exchange is not None:
            exchange.timed_out()
        self.abort()

    def half_close(self) -> None:
        """Send no more, but read what still comes. Where that can't be said (TLS) the connection is cut."""
        if self.transport is None or self._half_closed:
            return
        if not self.transport.can_write_eof():
            self.lost()
            return
        self._half_closed = True
        if self.exchange is not None:
            self.exchange.abandoned = True
        self.transport.write_eof()

    def pause(self) -> None:
        """Stop reading: whoever takes the body is too slow. No deadline runs meanwhile."""
        if not self._reading_paused and self.transport is not None and not self.transport.is_closing():
            self._reading_paused = True
            self.deadline_ns = NEVER
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._reading_paused and self.transport is not None and not self.transport.is_closing():
            self._reading_paused = False
            self.deadline_ns = perf_counter_ns() + self.idle_ns
            self.transport.resume_reading()

    def release(self) -> None:
        """Give the connection back: the exchange is over and left nothing behind."""
        if self._reading_paused:
            self.resume()
        self.exchange = self.take = None
        if self._half_closed or self.transport is None or self.transport.is_closing():
            self.abort()
            return
        self.deadline_ns = perf_counter_ns() + self._pool.keep_alive_ns
        self._pool.release(self)

    def lost(self) -> None:
        """Whoever takes the body is gone."""
        exchange, self.exchange = self.exchange, None
        self.abort()
        if exchange is not None:
            exchange.abandoned = True
            exchange.lost(ConnectionAbortedError("whoever took the answer is gone"))

    def abort(self) -> None:
        """Cut the connection."""
        self.exchange = None
        self.take = None
        if self.transport is not None:
            self.transport.abort()
