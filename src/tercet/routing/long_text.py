"""Text so long that it is hashed piece by piece: encoded whole it would lie in memory once more."""

from __future__ import annotations

from collections.abc import Iterator

from tercet.core.hashing import CHUNK_HASH_BYTES, chunk_hashes

LONG_CHARS = 64 * 1024


def text_pieces(text: str) -> Iterator[bytes]:
    """Yield the bytes of a text, a piece at a time."""
    for at in range(0, len(text), LONG_CHARS):
        yield text[at : at + LONG_CHARS].encode("utf-8", "surrogatepass")


class LongText:
    """The hashes of full chunks of what is fed, as `chunk_hashes` makes them of the whole; `size` is its bytes."""

    __slots__ = ("_chunk_bytes", "_rest", "_root", "hashes", "size")

    def __init__(self, chunk_bytes: int, root: bytes) -> None:
        self._chunk_bytes, self._root, self._rest = chunk_bytes, root, b""
        self.hashes = b""
        self.size = 0

    def feed(self, piece: bytes) -> None:
        """Take what follows."""
        self.size += len(piece)
        data = self._rest + piece
        found = chunk_hashes(data, self._chunk_bytes, b"" if self.hashes else self._root)
        self.hashes += found
        self._rest = data[len(found) // CHUNK_HASH_BYTES * self._chunk_bytes :]
