"""Heads of requests that came before."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.http.request import Request

_MAX_HEADS = 1024
_MAX_HEAD_BYTES = 2048
_UNREPEATABLE = frozenset({"transfer-encoding", "expect", "upgrade"})


@dataclass(slots=True)
class Head:
    """A head that was parsed before, and how long the body is that follows it."""

    method: str
    target: str
    path: str
    query: str
    headers: dict[str, str]
    length: int


class KnownHeads:
    """Heads as they came, byte for byte, and what they mean: clients send the same ones over and over, and looking one
    up costs a tenth of parsing it. One that differs from them by its body's length alone is known, too. Bounded; only
    heads that the parser accepted, of which nothing was left open."""

    __slots__ = ("_templates", "heads")

    def __init__(self) -> None:
        self.heads: dict[bytes, Head] = {}
        self._templates: dict[bytes, Head] = {}

    def like(self, data: bytes, end: int, max_body_bytes: int) -> Head | None:
        """Return what the head means that ends at `end`, if it differs from a known one by its body's length alone."""
        parts = _around_length(data, end)
        if parts is None or (like := self._templates.get(parts[0])) is None:
            return None
        length = int(parts[1])
        if length > max_body_bytes:
            return None
        headers = {**like.headers, "content-length": parts[1].decode("latin-1")}
        head = Head(like.method, like.target, like.path, like.query, headers, length)
        self._remember(self.heads, data[:end], head)
        return head

    def learn(self, data: bytes, request: Request) -> None:
        """Remember the head of a request if `data` is it and nothing else, and has nothing that must be asked each
        time."""
        end = len(data) - len(request.body)
        headers = request.headers
        if data.find(b"\r\n\r\n") + 4 != end or end > _MAX_HEAD_BYTES or not _UNREPEATABLE.isdisjoint(headers):
            return
        if headers.get("connection", "keep-alive").lower() != "keep-alive":
            return
        head = Head(request.method, request.target, request.path, request.query, dict(headers), len(request.body))
        self._remember(self.heads, data[:end], head)
        parts = _around_length(data, end)
        if parts is not None and headers.get("content-length") == parts[1].decode("latin-1"):
            self._remember(self._templates, parts[0], head)

    def _remember(self, heads: dict[bytes, Head], key: bytes, head: Head) -> None:
        if len(heads) >= _MAX_HEADS:
            heads.clear()
        heads[key] = head


def _around_length(data: bytes, end: int) -> tuple[bytes, bytes] | None:
    """Take the first Content-Length's digits out of the head that ends at `end`: (the rest, the digits)."""
    at = data.find(b"\r\nContent-Length: ", 0, end)
    if at < 0:
        at = data.find(b"\r\ncontent-length: ", 0, end)
        if at < 0:
            return None
    start = at + 18
    stop = data.find(b"\r\n", start, end)
    digits = data[start:stop]
    return (data[:start] + data[stop:end], digits) if digits.isdigit() and len(digits) <= 18 else None
