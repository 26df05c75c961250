"""The lean HTTP/1.1 server: one asyncio.Protocol a connection, one task a request."""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic

from tercet.core.open_files import room_for_connections
from tercet.http.connection import BeforeLong, Handler, ServerConnection
from tercet.http.deadlines import Deadlines
from tercet.http.known_heads import KnownHeads
from tercet.http.limits import ServerLimits
from tercet.http.request import Request
from tercet.http.responder import Responder

__all__ = ["Handler", "Request", "Responder", "Server", "ServerLimits"]


class Server:
    """Serves `handler` on one address.

    A RequestError that the handler raises before it started its answer becomes an OpenAI error object, any other
    exception a 500 and a log entry; after the start, either cuts the connection. When the client leaves, the
    handler's task is cancelled. With `reuse_port` other processes of this user may listen on the port, too: the kernel
    gives each new connection to one of them. There are at most `max_connections`, and no more than the files that this
    process may open suffice for if each needs `files_each`; further ones are answered 503, and closed without a word
    when there are many of them. `before_long` may refuse a request before all of its long body is here.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        max_header_bytes: int = 64 * 1024,
        max_body_bytes: int = 64 * 1024 * 1024,
        max_connections: int = 8192,
        files_each: int = 1,
        header_timeout_s: float = 15.0,
        body_timeout_s: float = 120.0,
        keep_alive_s: float = 75.0,
        write_timeout_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
        reuse_port: bool = False,
        before_long: BeforeLong | None = None,
    ) -> None:
        self.handler = handler
        self.before_long = before_long
        self.limits = ServerLimits(
            max_header_bytes=max_header_bytes,
            max_body_bytes=max_body_bytes,
            max_connections=min(max_connections, room_for_connections(files_each)),
            header_timeout_s=header_timeout_s,
            body_timeout_s=body_timeout_s,
            keep_alive_s=keep_alive_s,
            write_timeout_s=write_timeout_s,
        )
        self.closing = False
        self.heads = KnownHeads()
        self.tasks: set[asyncio.Task[None]] = set()
        shortest = min(header_timeout_s, body_timeout_s, keep_alive_s, write_timeout_s)
        self.connections: Deadlines[ServerConnection] = Deadlines(min(0.25, shortest / 4))
        self._host = host
        self._port = port
        self._tls = tls
        self._reuse_port = reuse_port
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; when 0 was asked for, the one that was chosen."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises OSError (errno EADDRINUSE when the port is taken)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ServerConnection(self),
            self._host,
            self._port,
            backlog=2048,
            reuse_port=self._reuse_port or None,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else self.limits.header_timeout_s,
        )
        self._port = int(self._server.sockets[0].getsockname()[1])

    async def close(self, grace_s: float = 5.0) -> None:
        """Stop accepting, let answers under way end for up to `grace_s` seconds, then cancel and cut what is left."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        until = monotonic() + grace_s
        for connection in list(self.connections.members):
            connection.shutdown()
        while self.connections.members and (left := until - monotonic()) > 0:
            if self.tasks:
                await asyncio.wait(set(self.tasks), timeout=left)
            await asyncio.sleep(min(0.005, left))
        for connection in list(self.connections.members):
            connection.transport.abort()
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(set(self.tasks), timeout=max(1.0, grace_s))
        self.connections.stop()
