"""The lean HTTP/1.1 client: pooled connections, deadlines, time stamps at the socket."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterable
from time import perf_counter_ns

from tercet.core.open_files import OWN_LACK
from tercet.http.address import Address
from tercet.http.deadlines import Deadlines
from tercet.http.errors import ClientError
from tercet.http.names import Look, Names, is_address, look_up
from tercet.http.plain import PlainHeads
from tercet.http.relay import OnFirst, Relayed
from tercet.http.response import Response
from tercet.http.tls import client_context
from tercet.http.upstream import Key, Upstream
from tercet.http.wire import Body

__all__ = ["Client", "ClientError", "OnFirst", "Relayed", "Response"]

_STALE_WITHIN_NS = 1_000_000_000
_MAX_URLS = 4096
_MAX_URL_CHARS = 512
"""Longer ones are not remembered: of what is passed on clients choose the URLs, and thousands of the longest would take
a gigabyte."""


class Client:
    """Sends requests over keep-alive connections, pooled by host and port.

    A pooled connection that the server closes as soon as a request is written on it, before a byte of an answer, was
    stale: the request is sent once more, on a fresh connection, unless `resend` is false: then every request is sent
    once, and what a server drops is seen. `max_header_bytes` bounds an answer's head.
    `connect_timeout_s` may change later. `tls` says who is believed behind an https URL, and what is shown there; None:
    the system's authorities. `look` looks names up.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 2.0,
        max_connections_per_host: int = 4096,
        keep_alive_s: float = 4.0,
        max_header_bytes: int = 64 * 1024,
        deadline_resolution_s: float = 0.1,
        resend: bool = True,
        tls: ssl.SSLContext | None = None,
        look: Look = look_up,
    ) -> None:
        self._names = Names(look)
        self._open: Deadlines[Upstream] = Deadlines(deadline_resolution_s)
        self.heads = PlainHeads()
        self.keep_alive_ns = int(keep_alive_s * 1e9)
        self.connect_timeout_s = connect_timeout_s
        self._max_per_host = max_connections_per_host
        self._max_header_bytes = max_header_bytes
        self._resend = resend
        self._tls = tls
        self._idle: defaultdict[Key, list[Upstream]] = defaultdict(list)
        self._count: dict[Key, int] = {}
        self._connecting: dict[Key, int] = {}
        self._addresses: dict[str, Address] = {}
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Callable[[], Body] = b"",
        first_byte_timeout_s: float = 60.0,
        idle_timeout_s: float = 30.0,
        on_begin: Callable[[Response], None] | None = None,
    ) -> Response:
        """Send a request; return once the answer's head has arrived.

        A `body` that is a function is called when it is sent, and what it made not kept; of several pieces none is
        copied. `Host` and `Content-Length`
        are added. `on_begin` is given the response before anything of it came.
        `first_byte_timeout_s` runs until the first byte of the answer's *body*, `idle_timeout_s` between its later
        bytes. Raises ClientError, and ValueError for an URL or header that is none.
        """
        address = self._addresses.get(url) or self._address(url)
        content = body() if callable(body) else body
        head = address.head(method, headers, len(content) if isinstance(content, bytes) else sum(map(len, content)))
        upstream = self._take_idle(address.key)
        fresh = upstream is None
        while True:
            response = Response(upstream or await self._connect(address.key), method, self._max_header_bytes)
            if on_begin is not None:
                on_begin(response)
            begun = response.send(head, content, first_byte_timeout_s, idle_timeout_s)
            del content  # it may be large, and the wait long
            try:
                await begun
            except BaseException:
                response.close()
                raise
            error = response.error
            if response.head_ns or error is None:
                return response
            stale = error.reason == "closed" and response.untouched and not response.abandoned
            if fresh or not self._resend or not stale or perf_counter_ns() - response.started_ns > _STALE_WITHIN_NS:
                raise error
            upstream, fresh = None, True
            content = body() if callable(body) else body

    def disconnect(self, url: str) -> None:
        """Cut every connection to the URL's host and port; answers under way from there fail with a ClientError."""
        key = (self._addresses.get(url) or self._address(url)).key
        for upstream in [upstream for upstream in self._open.members if upstream.key == key]:
            upstream.lost()

    async def close(self) -> None:
        """Close every connection; answers under way fail with a ClientError."""
        self._closed = True
        for upstream in list(self._open.members):
            upstream.lost()
        self._open.stop()
        for _ in range(3):  # transports report their end in the loop's next rounds
            await asyncio.sleep(0)

    # --- the pool ---

    def opened(self, upstream: Upstream) -> None:
        """A connection was made."""
        self._open.add(upstream)
        self._count[upstream.key] = self._count.get(upstream.key, 0) + 1

    def release(self, upstream: Upstream) -> None:
        """Take a connection back."""
        if self._closed:
            upstream.abort()
        else:
            self._idle[upstream.key].append(upstream)

    def forget(self, upstream: Upstream) -> None:
        """A connection is gone."""
        self._open.discard(upstream)
        self._count[upstream.key] -= 1
        idle = self._idle.get(upstream.key)
        if idle is not None and upstream in idle:
            idle.remove(upstream)

    def _take_idle(self, key: Key) -> Upstream | None:
        idle = self._idle.get(key)
        while idle:
            upstream = idle.pop()
            transport = upstream.transport
            if transport is not None and not transport.is_closing():
                return upstream
        return None

    async def _connect(self, key: Key) -> Upstream:
        host, port, _ = key
        if self._closed:
            raise ClientError("the client is closed", before_first_byte=True, reason="closed")
        connecting = self._connecting.get(key, 0)
        if self._count.get(key, 0) + connecting >= self._max_per_host:
            raise ClientError(
                f"{host}:{port} already has {self._max_per_host} connections: the bound of this client",
                before_first_byte=True,
                reason="too_many_connections",
            )
        self._connecting[key] = connecting + 1
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                upstream = await self._reach(key)
        except TimeoutError:
            raise ClientError(
                f"no connection to {host}:{port} within {self.connect_timeout_s:g} s",
                before_first_byte=True,
                reason="connect_timeout",
            ) from None
        except (OSError, UnicodeError) as error:  # a name that DNS can't hold
            ours = isinstance(error, OSError) and error.errno in OWN_LACK
            raise ClientError(
                f"cannot connect to {host}:{port}: {error}",
                before_first_byte=True,
                reason="too_many_connections" if ours else "connect",
            ) from error
        finally:
            self._connecting[key] -= 1
        return upstream

    async def _reach(self, key: Key) -> Upstream:
        """Return a connection to the first address that has one. Raises OSError and UnicodeError."""
        host, port, secure = key
        failure: OSError | None = None
        for address in [host] if is_address(host) else await self._names.addresses(host, port):
            try:
                _, upstream = await asyncio.get_running_loop().create_connection(
                    lambda: Upstream(self, key),
                    address,
                    port,
                    ssl=self._context() if secure else None,
                    server_hostname=host if secure else None,
                )
            except OSError as error:
                failure = error
            else:
                return upstream
        raise failure or OSError(f"{host} has no address")

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:  # the system's authorities: reading them takes 10 ms
            self._tls = client_context()
        return self._tls

    def _address(self, url: str) -> Address:
        address = Address(url)
        if len(url) <= _MAX_URL_CHARS:
            if len(self._addresses) >= _MAX_URLS:
                self._addresses.clear()
            self._addresses[url] = address
        return address
