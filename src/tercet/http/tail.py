"""The end of a body that was passed on."""

from __future__ import annotations

_PIECES = 8
_BYTES = 768


class Tail:
    """Keeps the end of pieces that come one by one, and counts their bytes in `size`.

    At least the last eight pieces and 768 bytes are kept, but no more than `limit` bytes: a server that sends an event
    a piece says all that matters in the last few, and there are as many tails as there are streams.
    """

    __slots__ = ("_before", "_held", "_limit", "_pieces", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._before = b""
        self._pieces: list[bytes] = []
        self._held = self.size = 0

    def add(self, pieces: list[bytes]) -> None:
        """Take pieces."""
        size = sum(map(len, pieces))
        self.size += size
        if not self._limit:
            return
        self._held += size
        self._pieces += pieces
        if (self._held >= _BYTES and len(self._pieces) >= _PIECES) or self._held >= self._limit:
            self._before = b"".join(self._pieces)[-self._limit :]
            self._pieces.clear()
            self._held = 0

    def end(self) -> bytes:
        """Return what is kept."""
        return b"".join((self._before, *self._pieces))[-self._limit :] if self._limit else b""
