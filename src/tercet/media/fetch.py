"""Fetches a URL that a stranger named: bounded in bytes, time and redirects, and never from inside the house."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Url, parse_url

from tercet.core.digits import count_in
from tercet.media.address import is_public
from tercet.media.errors import PictureError
from tercet.media.limits import MediaLimits

_CHUNK_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "User-Agent": "tercet",
    "Accept": "image/*",
    # A compressed body could unpack to any size.
    "Accept-Encoding": "identity",
    "Connection": "close",
}


def _resolve(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


Resolver = Callable[[str, int], list[str]]
Guard = Callable[[str], bool]


class Fetcher:
    """Fetches over HTTP(S), blocking; used by several threads at once."""

    def __init__(self, limits: MediaLimits, *, resolve: Resolver = _resolve, may_reach: Guard = is_public) -> None:
        """`may_reach` says of an address whether it may be connected to; with `allow_local` it is not asked."""
        self._limits = limits
        self._resolve, self._may_reach = resolve, (lambda _: True) if limits.allow_local else may_reach
        self._tls = ssl.create_default_context()
        # It warns of answers with strange headers, and of certificates, and says of what URL they are.
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)

    def fetch(self, url: str) -> bytes:
        """Return the body behind `url`. Raises PictureError.

        A name's addresses are checked after it is resolved, and the connection goes to a checked address, not to the
        name again: it can't be resolved to another one meanwhile. Each redirect is checked like the first URL. The
        deadline covers everything but the system's resolver, which has its own.
        """
        deadline = time.monotonic() + self._limits.timeout_s
        for _ in range(self._limits.max_redirects + 1):
            location, body = self._get(_parse(url), deadline)
            if location is None:
                return body
            url = urljoin(url, location)
        raise PictureError(f"more than {self._limits.max_redirects} redirects")

    def _get(self, url: Url, deadline: float) -> tuple[str | None, bytes]:
        """Return (where a redirect leads, b"") or (None, the body)."""
        authority = str(url.host) if url.port is None else f"{url.host}:{url.port}"
        connection, cut = None, threading.Event()
        try:
            connection = self._connect(url, deadline)
            with _cut_at(connection.sock, deadline, cut):
                connection.request(
                    "GET",
                    url.request_uri,
                    headers={"Host": authority, **_HEADERS},
                    preload_content=False,
                    decode_content=False,
                )
                with connection.getresponse() as response:
                    answer = self._read(response)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if cut.is_set() or time.monotonic() >= deadline:
                raise self._too_slow() from error
            raise PictureError(f"can't be fetched from {authority}: {_words(error)}") from error
        finally:
            if connection is not None:
                connection.close()
        if cut.is_set():
            raise self._too_slow()  # a body without a length seems whole when it is cut
        return answer

    def _connect(self, url: Url, deadline: float) -> HTTPConnection:
        """Return a connection to one of the host's addresses that may be reached."""
        host = str(url.host).strip("[]")
        secure = url.scheme == "https"
        port = url.port or (443 if secure else 80)
        addresses = self._addresses(host, port)
        for i, address in enumerate(addresses):
            left = (deadline - time.monotonic()) / (len(addresses) - i)
            if left <= 0:
                raise self._too_slow()
            connection = (
                HTTPSConnection(address, port, timeout=left, ssl_context=self._tls, server_hostname=host)
                if secure
                else HTTPConnection(address, port, timeout=left)
            )
            try:
                connection.connect()
                connection.timeout = deadline - time.monotonic()  # the others' share of it is free now
                return connection
            except (urllib3.exceptions.HTTPError, OSError):
                connection.close()
                if i == len(addresses) - 1:
                    raise
        raise AssertionError("a host has at least one address")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise PictureError(f"the host {host[:80]!r} has no address: {_words(error)}") from error
        addresses = [address for address in dict.fromkeys(found) if self._may_reach(address)]
        if not addresses:
            raise PictureError(
                f"{host[:80]!r} is not on the public internet; a worker started with --allow-local-media fetches it"
            )
        return addresses

    def _read(self, response: urllib3.BaseHTTPResponse) -> tuple[str | None, bytes]:
        if response.status in _REDIRECTS and (location := response.headers.get("Location")):
            return location, b""
        if response.status != 200:
            raise PictureError(f"the server answered HTTP {response.status}")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and ((count := count_in(length)) is None or count > self._limits.max_bytes):
            raise self._too_large()
        body = bytearray()
        for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
            body += chunk
            if len(body) > self._limits.max_bytes:
                raise self._too_large()
        return None, bytes(body)

    def _too_slow(self) -> PictureError:
        return PictureError(f"no whole answer within {self._limits.timeout_s:g} s")

    def _too_large(self) -> PictureError:
        return PictureError(f"larger than {self._limits.max_bytes} bytes")


def _parse(text: str) -> Url:
    try:
        url = parse_url(text)
    except urllib3.exceptions.LocationParseError as error:
        raise PictureError(f"not a URL: {text[:80]!r}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise PictureError(f"not an http URL: {text[:80]!r}")
    if url.auth:
        raise PictureError("URLs with a user name or password are not fetched")
    return url


@contextmanager
def _cut_at(sock: socket.socket | None, deadline: float, cut: threading.Event) -> Iterator[None]:
    """Shut `sock` down at `deadline`: a timeout on it alone starts anew with every byte that drips in."""

    def shut() -> None:
        cut.set()
        with suppress(OSError):  # the peer was quicker
            # Not SSLSocket's own: that takes the TLS object away from the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # type: ignore[arg-type]

    timer = threading.Timer(max(deadline - time.monotonic(), 0), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _words(error: Exception) -> str:
    """Return a library's error in a few printable words, without its objects."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error.args[0] if error.args else error).rpartition("): ")[2]
    return "".join(char if char.isprintable() else " " for char in text)[:120].strip() or type(error).__name__
