"""Generated pictures: real PNG files, each with pixels of its own."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode

import pytest

from tercet.core.errors import UsageError
from tercet.traffic.pictures import PictureMaker, Pictures, parse_size


def pixels(png: bytes) -> list[list[tuple[int, int, int]]]:
    """Decode a PNG of 4-bit indexed pixels with filters none and up, checking every chunk's sum."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (4, 3) and b"IEND" in chunks
    raw, stride = zlib.decompress(chunks[b"IDAT"]), -(-width // 2)
    assert len(raw) == height * (stride + 1)
    palette = [tuple(chunks[b"PLTE"][i : i + 3]) for i in range(0, 48, 3)]
    rows: list[list[tuple[int, int, int]]] = []
    above = bytes(stride)
    for y in range(height):
        how, line = raw[y * (stride + 1)], raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)]
        above = line if how == 0 else bytes((a + b) & 255 for a, b in zip(line, above, strict=True))
        indices = [index for byte in above for index in (byte >> 4, byte & 15)][:width]
        rows.append([palette[index] for index in indices])  # type: ignore[misc]
    return rows


@pytest.mark.parametrize(("width", "height"), [(64, 48), (1, 1), (33, 17)])
def test_a_picture_is_a_png_of_its_size(width: int, height: int) -> None:
    uri = PictureMaker(width, height).data_uri("a")
    rows = pixels(b64decode(uri.removeprefix("data:image/png;base64,")))
    assert (len(rows), {len(row) for row in rows}) == (height, {width})


def test_names_decide_the_colours_of_every_pixel() -> None:
    maker = PictureMaker(64, 64)
    first, again, other = (pixels(maker.png(name)) for name in ("a", "a", "b"))
    assert first == again
    assert all(one != two for rows in zip(first, other, strict=True) for one, two in zip(*rows, strict=True))
    assert len({colour for row in first for colour in row}) > 4
    assert len(PictureMaker(1024, 1024).png("a")) < 20_000


def test_sizes_and_numbers_are_checked() -> None:
    assert parse_size("640x480") == (640, 480)
    for text in ("640", "640x", "ax b"):
        with pytest.raises(UsageError, match="--image-size"):
            parse_size(text)
    for wrong in ((3, 2, 8, 8), (1, 1, 0, 8), (1, 1, 8, 8, -1)):
        with pytest.raises(UsageError, match="--image"):
            Pictures(*wrong)
