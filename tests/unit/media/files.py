"""Picture files of every kind, good and bad."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image


def picture(size: tuple[int, int] = (48, 32), seed: int = 0, form: str = "PNG") -> bytes:
    """Return a file of noise: its size is that of its pixels, and two seeds differ."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return encoded(Image.fromarray(noise), form)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, form)
    return file.getvalue()


def claims(width: int, height: int, unpacked: int = 0) -> bytes:
    """Return a PNG that says it is this large, and unpacks to so many bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(1)
    packed = b"".join([packer.compress(bytes(min(1 << 20, unpacked - i))) for i in range(0, unpacked, 1 << 20)])
    packed += packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
