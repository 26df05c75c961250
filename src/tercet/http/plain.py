"""Answers as nearly all are, read without a parser: what isn't plain is left to it.

Whatever is taken here the parser would take too, and to mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_FIRST = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t -~\x80-\xff]*)")
_BLANK = (9, 32)
_MAX_KNOWN = 1024
_MAX_HEAD_BYTES = 2048
_MAX_LINE_BYTES = 256
_HEX = re.compile(rb"[0-9A-Fa-f]{1,7}")
_LONGEST_SIZE = 9  # seven digits and the line's end
_SIZES = {b"%x" % size: size for size in range(4096)}
BEGINS = {len(line) + size + 4: line + b"\r\n" for line, size in _SIZES.items() if 0 < size < 1024}
"""What usual chunks begin with, by the length of the chunk with its framing."""
CHUNKED = -1
"""In place of a length."""


PlainHead = tuple[int, Mapping[str, str], int]
"""An answer's status, its headers by lower-case name, and the length of its body or CHUNKED."""


class PlainHeads(dict[bytes, PlainHead | None]):
    """Reads the heads of answers, and remembers heads and lines as they came, byte for byte: servers send the same ones
    over and over, and looking one up costs a tenth of reading it. Bounded; only what was found plain is remembered.

    `heads[head]`, for a head up to its empty line, is None when it is anything but HTTP/1.1 with one framing, no header
    twice, the connection kept, and a body that may follow. The headers are shared: not to be changed.
    """

    __slots__ = ("_firsts", "_lines")

    def __init__(self) -> None:
        super().__init__()
        self._firsts: dict[bytes, int] = {}
        self._lines: dict[bytes, tuple[str, str]] = {}

    def __missing__(self, head: bytes) -> PlainHead | None:
        found = self._read(head)
        if found is not None and len(head) <= _MAX_HEAD_BYTES:
            if len(self) >= _MAX_KNOWN:
                self.clear()
            self[head] = found
        return found

    def _read(self, head: bytes) -> PlainHead | None:
        first, *lines = head.split(b"\r\n")
        status = self._firsts.get(first) or self._first(first)
        if not status or lines[-2:] != [b"", b""]:
            return None
        known, headers = self._lines, dict[str, str]()
        for line in lines[:-2]:
            pair = known.get(line) or self._line(line)
            if pair is None:
                return None
            headers[pair[0]] = pair[1]
        if len(headers) != len(lines) - 2 or "connection" in headers or "upgrade" in headers:
            return None
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if coding is not None:
            return (status, headers, CHUNKED) if coding.lower() == "chunked" and length is None else None
        if length is None or len(length) > 18 or not (length.isascii() and length.isdigit()):
            return None
        return status, headers, int(length)

    def _first(self, line: bytes) -> int:
        match = _FIRST.fullmatch(line)
        if match is None or line[-1] in _BLANK or (status := int(match[1])) in (204, 304):
            return 0
        if len(self._firsts) < _MAX_KNOWN and len(line) <= _MAX_LINE_BYTES:
            self._firsts[line] = status
        return status

    def _line(self, line: bytes) -> tuple[str, str] | None:
        match = _LINE.fullmatch(line)
        if match is None or line[-1] in _BLANK:
            return None
        pair = match[1].decode("latin-1").lower(), match[2].decode("latin-1")
        if len(line) <= _MAX_LINE_BYTES:
            if len(self._lines) >= _MAX_KNOWN:
                self._lines.clear()
            self._lines[line] = pair
        return pair


def plain_chunks(data: bytes, pieces: list[bytes]) -> bool | None:
    """Append the content of whole chunks to `pieces`; return whether the last chunk is among them. None when `data`
    holds anything else: part of a chunk, extensions, trailers, bytes after the end."""
    at, size = 0, len(data)
    while at < size:
        end = data.find(b"\r\n", at, at + _LONGEST_SIZE)
        line = data[at:end] if end > 0 else b""
        length = _SIZES.get(line)
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
