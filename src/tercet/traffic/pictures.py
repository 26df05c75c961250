"""Pictures to send: PNG files as data URIs, each with colours of its own, made at the cost of a palette."""

from __future__ import annotations

import re
import struct
import zlib
from base64 import b64encode
from dataclasses import dataclass
from hashlib import shake_128

from tercet.core.errors import UsageError

TILE = 16
"""Pixels of a tile's edge: about a vision model's patch."""

COLOURS = 16


@dataclass(frozen=True, slots=True)
class Pictures:
    """What pictures a request carries: `low` to `high` of them, each of `width` x `height` pixels.

    `pool` 0: every picture is new; else so many pictures of the run rotate, and an encoder's cache can hold them.
    """

    low: int = 1
    high: int = 1
    width: int = 512
    height: int = 512
    pool: int = 0

    def __post_init__(self) -> None:
        """Refuse pictures that can't be. Raises UsageError."""
        if not 0 <= self.low <= self.high or self.high > 1000:
            raise UsageError(f"--images {self.low}-{self.high} is out of range: write for instance 3, or 1-8")
        if not (1 <= self.width <= 16384 and 1 <= self.height <= 16384):
            raise UsageError(f"--image-size {self.width}x{self.height} is out of range: write for instance 512x512")
        if self.pool < 0:
            raise UsageError(f"--image-pool {self.pool} is out of range: give 0 (all distinct) or more")


def parse_size(text: str) -> tuple[int, int]:
    """Read `512x512`. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None:
        raise UsageError(f"--image-size {text!r} is no size: write for instance 512x512")
    return int(match[1]), int(match[2])


class PictureMaker:
    """Makes pictures of one size: one pattern of tiles, and sixteen colours that the picture's name decides.

    The pattern is compressed once; a picture of its own costs a palette. Decoded, all its pixels differ from another's.
    """

    def __init__(self, width: int, height: int) -> None:
        header = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)  # 4 bits a pixel, indexed
        row_bytes = -(-width // 2)
        rows: list[bytes] = []
        for top in range(0, height, TILE):
            tiles = shake_128(f"row {top}".encode()).digest(-(-width // TILE))
            row = b"".join(bytes([(tile & 15) * 17]) * (TILE // 2) for tile in tiles)[:row_bytes]
            first = b"\x00" + row  # filter: none
            again = b"\x02" + bytes(row_bytes)  # filter: the same as the row above
            rows += [first, *[again] * (min(TILE, height - top) - 1)]
        self._begin = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
        self._end = _chunk(b"IDAT", zlib.compress(b"".join(rows), 9)) + _chunk(b"IEND", b"")

    def png(self, name: str) -> bytes:
        """Return the picture called `name`: equal names, equal pictures."""
        return self._begin + _chunk(b"PLTE", shake_128(name.encode()).digest(3 * COLOURS)) + self._end

    def data_uri(self, name: str) -> str:
        """Return it as a `data:` URI."""
        return f"data:image/png;base64,{b64encode(self.png(name)).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
