"""The end of a body that was passed on."""

from __future__ import annotations


class Tail:
    """Keeps the last `limit` bytes of pieces that come one by one, and counts them all in `size`."""

    __slots__ = ("_cut_at", "_limit", "_pieces", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._cut_at = limit + limit // 4
        self._pieces: list[bytes] = []
        self.size = 0

    def add(self, pieces: list[bytes]) -> None:
        """Take pieces."""
        for piece in pieces:
            self.size += len(piece)
            self._pieces.append(piece)
        if self.size >= self._cut_at:  # not after each piece: that would cost as much as passing it on
            kept = self.end()
            self._cut_at = self.size + self._limit // 4 + 1
            self._pieces = [kept] if kept else []

    def end(self) -> bytes:
        """Return what is kept."""
        return b"".join(self._pieces)[-self._limit :] if self._limit else b""
