"""Answers as nearly all are, read without a parser: what isn't plain is left to it.

Whatever is taken here the parser would take too, and to mean the same.
"""

from __future__ import annotations

import re

_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_HEX = re.compile(rb"[0-9A-Fa-f]{1,7}")
_LONGEST_SIZE = 9  # seven digits and the line's end
SIZES = {b"%x" % size: size for size in range(4096)}
"""The lines that usual chunks begin with."""
CHUNKED = -1
"""In place of a length."""


def plain_head(head: bytes) -> tuple[int, dict[str, str], int] | None:
    """Read an answer's head, up to its empty line: (status, headers, length of the body or CHUNKED). None when it is
    anything but HTTP/1.1 with one framing, no header twice, and the connection kept."""
    match = _HEAD.fullmatch(head)
    if match is None or b" \r\n" in head or b"\t\r\n" in head:
        return None
    headers: dict[str, str] = {}
    lines = match[2].decode("latin-1").split("\r\n")
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.lstrip(" \t")
    if len(headers) != len(lines) - 1 or "connection" in headers or "upgrade" in headers:
        return None
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        return (int(match[1]), headers, CHUNKED) if coding.lower() == "chunked" and length is None else None
    if length is None or len(length) > 18 or not (length.isascii() and length.isdigit()):
        return None
    return int(match[1]), headers, int(length)


def plain_chunks(data: bytes, pieces: list[bytes]) -> bool | None:
    """Append the content of whole chunks to `pieces`; return whether the last chunk is among them. None when `data`
    holds anything else: part of a chunk, extensions, trailers, bytes after the end."""
    at, size = 0, len(data)
    while at < size:
        end = data.find(b"\r\n", at, at + _LONGEST_SIZE)
        line = data[at:end] if end > 0 else b""
        length = SIZES.get(line)
        if length is None:
            if _HEX.fullmatch(line) is None:
                return None
            length = int(line, 16)
        start = end + 2
        end = start + length
        at = end + 2
        if data[end:at] != b"\r\n":
            return None
        if not length:
            return True if at == size else None
        pieces.append(data[start:end])
    return False
