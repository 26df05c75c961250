"""Heads of HTTP/1.1 messages as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus

Headers = Iterable[tuple[str, str]]
Body = bytes | list[bytes | memoryview]
"""A message's body, whole or in pieces."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_PASSED_ON = HOP_BY_HOP | {"content-length"}
LAST_CHUNK = b"0\r\n\r\n"
JOIN_LIMIT = 64 * 1024
"""Pieces up to this size are joined before they are written: one copy is cheaper than one more buffer."""

_FIRST_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
WITH_BODY = {status: line for status, line in _FIRST_LINES.items() if status >= 200 and status not in (204, 304)}
"""The first lines of answers that carry a body, unless HEAD was asked for."""


def response_head(status: int, headers: Headers) -> bytes:
    """Return status line and headers with the empty line. Raises ValueError when a header could split the message."""
    first = _FIRST_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n"
    return f"{first}{fields(headers)}\r\n".encode("latin-1")


def request_head(method: str, target: str, headers: Headers) -> bytes:
    """Return request line and headers with the empty line. Raises ValueError when a part could split the message."""
    if any(c in method or c in target for c in " \r\n\0"):
        raise ValueError(f"a space, a line break or a NUL in the request line: {method!r} {target!r}")
    return f"{method} {target} HTTP/1.1\r\n{fields(headers)}\r\n".encode("latin-1")


def fields(headers: Headers) -> str:
    """Return headers as lines. Raises ValueError when one could split the message."""
    text = ""
    for name, value in headers:
        line = f"{name}: {value}"
        if not line.isprintable() and ("\n" in line or "\r" in line or "\0" in line):
            raise ValueError("a header holds a line break or a NUL")
        text = f"{text}{line}\r\n"
    return text


def chunk(data: bytes) -> bytes:
    """Frame `data`, which must not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def has_body(method: str, status: int) -> bool:
    """True when the answer to `method` with `status` may carry a body."""
    return method != "HEAD" and status >= 200 and status not in (204, 304)


def end_to_end(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the headers that a proxy may pass on: neither hop-by-hop nor about framing. Names must be lower case."""
    passed = [(name, value) for name, value in headers.items() if name not in _NOT_PASSED_ON]
    if "connection" in headers:
        named = {name.strip().lower() for name in headers["connection"].split(",")}
        passed = [pair for pair in passed if pair[0] not in named]
    return passed
