"""A picture that nobody has seen: a cache must not answer in the encoder's place."""

from __future__ import annotations

import secrets
import struct
import zlib
from base64 import b64encode

SIDE = 16
"""Pixels; every encoder scales it to what it wants."""


def probe_picture() -> str:
    """Return a PNG of random pixels as a data URI."""
    rows = b"".join(b"\0" + secrets.token_bytes(3 * SIDE) for _ in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
