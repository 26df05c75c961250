"""The end of a body that was passed on."""

from __future__ import annotations

_PIECES, _BYTES = 8, 768
_OF_BYTES = 4096


class Tail:
    """Keeps the end of pieces that come one by one, and counts their bytes in `size`.

    At least the last eight pieces and 768 bytes are kept, as much again for each 4096 more of `limit`, but no more than
    `limit` bytes: a server that sends an event a piece says all that matters in the last few, and there are as many
    tails as there are streams.
    """

    __slots__ = ("_before", "_fewest", "_held", "_least", "_limit", "_pieces", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        times = max(1, limit // _OF_BYTES)
        self._least, self._fewest = times * _BYTES, times * _PIECES
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
        if (self._held >= self._least and len(self._pieces) >= self._fewest) or self._held >= self._limit:
            self._before = b"".join(self._pieces)[-self._limit :]
            self._pieces.clear()
            self._held = 0

    def end(self) -> bytes:
        """Return what is kept."""
        return b"".join((self._before, *self._pieces))[-self._limit :] if self._limit else b""
