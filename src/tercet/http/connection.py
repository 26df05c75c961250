"""One client's connection to the server: parsing, keep-alive, pipelining, bounds and flow control."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from json import dumps
from time import perf_counter_ns
from typing import Protocol, cast

from tercet.core.errors import RequestError
from tercet.core.faults import whence
from tercet.http.deadlines import NEVER, Deadlines
from tercet.http.known_heads import KnownHeads
from tercet.http.limits import ServerLimits
from tercet.http.request import Request, origin_form, split_target
from tercet.http.request_reader import RequestReader
from tercet.http.responder import Responder, Source

Handler = Callable[[Request, Responder], Awaitable[None]]
BeforeLong = Callable[[str, str, Mapping[str, str], asyncio.Transport], None]
"""(method, path, headers, transport) of a request with a long body, before all of it is here. Raises RequestError for
one that will be refused anyway: a stranger's must not fill the memory."""

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_PIPELINED = 8
_MAX_REFUSED = 64
"""So many are told that there are too many at once: each of them is a file for as long as that takes."""
_LINGER_NS = 2_000_000_000


class Host(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    before_long: BeforeLong | None
    limits: ServerLimits
    closing: bool
    tasks: set[asyncio.Task[None]]
    heads: KnownHeads
    connections: Deadlines[ServerConnection]


class ServerConnection(asyncio.Protocol):
    """Requests are parsed as they come and handled one after the other; at most eight wait their turn."""

    __slots__ = (
        "_discarding",
        "_host",
        "_keep_alive_ns",
        "_loop",
        "_queue",
        "_reader",
        "_reading_paused",
        "_responder",
        "_task",
        "_writable",
        "deadline_ns",
        "source",
        "transport",
        "writing_paused",
    )

    transport: asyncio.Transport
    """Where bytes are written; set once connected, as `_loop` is."""
    _loop: asyncio.AbstractEventLoop

    def __init__(self, host: Host) -> None:
        self._host = host
        self._keep_alive_ns = int(host.limits.keep_alive_s * 1e9)
        self._reader = RequestReader(host.limits, self, "", host.heads)
        self._queue: list[tuple[Request | RequestError, Responder]] = []
        self._task: asyncio.Task[None] | None = None
        self._responder: Responder | None = None
        self._discarding = False
        self._reading_paused = False
        self._writable: asyncio.Event | None = None
        self.writing_paused = False
        self.source: Source | None = None
        self.deadline_ns = NEVER

    # --- the transport's callbacks ---

    @property
    def busy(self) -> bool:
        """True while an answer is under way."""
        return self._responder is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it when there are too many."""
        self.transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._reader.client = peer[0]
        self._host.connections.add(self)
        self._set_deadline(self._host.limits.header_timeout_s)
        excess = len(self._host.connections.members) - self._host.limits.max_connections
        if excess > _MAX_REFUSED:
            self.transport.abort()
        elif excess > 0:
            self._refuse(RequestError(503, "too many connections: try again later", code="too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is being handled: its client is gone."""
        self._host.connections.discard(self)
        self.deadline_ns = NEVER
        self._queue.clear()
        if self.source is not None:
            self.source.lost()
            self.source = None
        responder, self._responder = self._responder, None
        if responder is not None and not responder.finished:  # else the handler itself cut the connection
            responder.finished = True
            if self._task is not None:
                self._task.cancel()
                self._task.add_done_callback(self._host.tasks.discard)  # for one that never started
        self._task = None
        self.writing_paused = False
        if self._writable is not None:
            self._writable.set()
        self._reader.close()

    def eof_received(self) -> None:
        """A client that closes its side has left: an HTTP client has no other way to say so."""
        if self._responder is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.writing_paused = True
        self._set_deadline(self._host.limits.write_timeout_s)
        if self._writable is not None:
            self._writable.clear()
        if self.source is not None:
            self.source.pause()

    def resume_writing(self) -> None:
        """The client has read on."""
        self.writing_paused = False
        if self._responder is not None:
            self.deadline_ns = NEVER
        else:
            if not self._discarding:
                self._await_request()
            self._go_on()
        if self._writable is not None:
            self._writable.set()
        if self.source is not None:
            self.source.resume()

    async def wait_writable(self) -> None:
        """Return when the write buffer has drained, or the client left."""
        if self._writable is None:
            self._writable = asyncio.Event()
        while self.writing_paused:
            await self._writable.wait()

    def data_received(self, data: bytes) -> None:
        """Read what came, and start the first request of it."""
        if self._discarding:
            return
        if self._free and not self._queue:
            request = self._reader.known(data)
            if request is not None:
                self._start(request, Responder(self, request.method, http10=False, keep_alive=not self._host.closing))
                return
        begins = self._free and not self._reader.begun
        try:
            self._reader.feed(data)
        except RequestError as error:
            self._refuse(error)
        if begins and self._reader.begun and not self._reader.in_body and not self._discarding:
            self._set_deadline(self._host.limits.header_timeout_s)
        if self._free:
            self._next()
        elif len(self._queue) >= _MAX_PIPELINED and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def body_follows(self) -> None:
        """A request's head is read."""
        if self._free and not self._queue:
            self._set_deadline(self._host.limits.body_timeout_s)
            self._send_continue()

    def body_is_long(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        """A long body is not all here yet. Raises RequestError if it need not come."""
        if self._host.before_long is not None:
            path, _ = split_target(origin_form(target))
            self._host.before_long(method, path, headers, self.transport)

    def request_read(self, request: Request, *, http10: bool, keep_alive: bool) -> None:
        """A request is whole: queue it."""
        responder = Responder(self, request.method, http10=http10, keep_alive=keep_alive and not self._host.closing)
        self._queue.append((request, responder))

    # --- one request after the other ---

    @property
    def _free(self) -> bool:
        """True when the next request may start: the one before is answered, and its answer is not all unread. What a
        client asks for on and on would fill the memory, if it read none of it."""
        return self._responder is None and not self.writing_paused

    def _next(self) -> None:
        """Start the next request that waits."""
        if not self._queue:
            if not self._discarding:
                self._send_continue()
            return
        item, responder = self._queue.pop(0)
        if isinstance(item, RequestError):
            self._responder = responder
            self._send_refusal(item, responder)
        else:
            self._start(item, responder)

    def _start(self, request: Request, responder: Responder) -> None:
        self._responder = responder
        self.deadline_ns = NEVER
        self._task = task = self._loop.create_task(self._handle(request, responder))
        self._host.tasks.add(task)

    async def _handle(self, request: Request, responder: Responder) -> None:
        task = self._task
        try:
            await self._host.handler(request, responder)
            if not responder.finished:
                if not responder.started:
                    raise RuntimeError("the handler ended without an answer")
                responder.finish()
        except RequestError as error:
            await self._fail(error, request, responder)
        except asyncio.CancelledError:
            responder.abort()
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: one request's fault must not end the server
            log.error("%s %.100r failed: %s", request.method, request.path, whence(error))
            await self._fail(
                RequestError(500, f"internal error: {type(error).__name__}", code="internal_error"), request, responder
            )
        finally:
            if task is not None:
                self._host.tasks.discard(task)

    async def _fail(self, error: RequestError, request: Request, responder: Responder) -> None:
        if responder.started:
            if not responder.finished:
                log.warning("%s %.100r broke off: %s", request.method, request.path, error.code or error.status)
                responder.abort()
            return
        await responder.send(error.status, dumps(error.body()).encode())

    def answered(self, responder: Responder, *, keep_alive: bool) -> None:
        """The answer is complete: close, or go on with the next request."""
        if responder is not self._responder:
            return
        self._responder = self._task = self.source = None
        if not keep_alive or self._host.closing:
            self._queue.clear()
            self._discarding = True
            self._set_deadline(self._host.limits.write_timeout_s)
            self.transport.close()
            return
        if not self.writing_paused:
            self._await_request()
        if self._reading_paused and len(self._queue) < _MAX_PIPELINED // 2:
            self._reading_paused = False
            self.transport.resume_reading()
        self._go_on()

    def _go_on(self) -> None:
        if self._queue or self._reader.wants_continue:
            self._loop.call_soon(self._next_if_free)

    def _next_if_free(self) -> None:
        if self._free and not self.transport.is_closing():
            self._next()

    def _send_continue(self) -> None:
        if self._reader.wants_continue:
            self._reader.wants_continue = False
            self.transport.write(_CONTINUE)

    # --- refusing and closing ---

    def _refuse(self, error: RequestError) -> None:
        """Answer `error` once those before it are answered, and close."""
        self._discarding = True
        responder = Responder(self, "GET", http10=self._reader.http10, keep_alive=False)
        self._queue.append((error, responder))
        if self._free:
            self._next()

    def _send_refusal(self, error: RequestError, responder: Responder) -> None:
        # Closing with unread input resets the connection and may destroy the answer on its way:
        # half-close, and drop input for a while.
        body = dumps(error.body()).encode()
        responder.start(error.status, content_type="application/json", content_length=len(body))
        responder.write(body)
        responder.finished = True
        self._responder = None
        self.deadline_ns = perf_counter_ns() + _LINGER_NS
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def expired(self) -> None:
        """A deadline passed: say so when a request is half read, else close."""
        if self._discarding or self.writing_paused or self._responder is not None:
            self.deadline_ns = NEVER
            self.transport.abort()
        elif self._reader.begun:
            part = "body" if self._reader.in_body else "headers"
            self._refuse(RequestError(408, f"the request's {part} did not arrive in time", code="request_timeout"))
        else:
            self.deadline_ns = NEVER
            self.transport.close()

    def shutdown(self) -> None:
        """Close when idle; else after the answer under way."""
        if self._responder is None:
            self._discarding = True
            self.transport.close()
        else:
            self._responder.close_after()

    def _await_request(self) -> None:
        if self._reader.begun:
            limits = self._host.limits
            self._set_deadline(limits.body_timeout_s if self._reader.in_body else limits.header_timeout_s)
        else:
            self.deadline_ns = perf_counter_ns() + self._keep_alive_ns

    def _set_deadline(self, seconds: float) -> None:
        self.deadline_ns = perf_counter_ns() + int(seconds * 1e9)
