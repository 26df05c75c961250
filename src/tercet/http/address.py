"""Where an URL leads, and how a request to it begins."""

from __future__ import annotations

from urllib.parse import urlsplit

from tercet.core.errors import UsageError
from tercet.http.upstream import Key
from tercet.http.wire import Headers, fields, request_head

_WITH_LENGTH = frozenset({"POST", "PUT", "PATCH"})


class Address:
    """An http URL, taken apart once. Raises ValueError for one that is none."""

    __slots__ = ("_begins", "authority", "key", "target")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http URL: {url!r}")
        secure = parts.scheme == "https"
        self.key: Key = (parts.hostname, parts.port or (443 if secure else 80), secure)
        self.target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.authority = parts.netloc.rpartition("@")[2]
        self._begins: dict[str, bytes] = {}

    def head(self, method: str, headers: Headers, body_bytes: int) -> bytes:
        """Return the head of a request with `headers`. Raises ValueError when a part could split the message."""
        begin = self._begins.get(method)
        if begin is None:
            begin = self._begins[method] = request_head(method, self.target, (("Host", self.authority),))[:-2]
        if body_bytes or method in _WITH_LENGTH:
            return begin + f"{fields(headers)}Content-Length: {body_bytes}\r\n\r\n".encode("latin-1")
        return begin + f"{fields(headers)}\r\n".encode("latin-1")


def server_url(text: str) -> str:
    """Return a server's URL as a person gave it, without a slash at its end. Raises UsageError for one that is none."""
    try:
        Address(text)
    except ValueError:
        raise UsageError(f"{text!r} is no server's URL: write http://HOST:PORT") from None
    return text.rstrip("/")
