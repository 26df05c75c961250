"""Which prompt pieces a rank's cache is believed to hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """Chunk hash -> tokens from the prompt's start to that chunk's end; bounded, the least recently used go first.

    `entries` are for looking into, a thousand times a second: no method stands between."""

    __slots__ = ("capacity", "entries")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of chunks held."""
        return len(self.entries)

    def match(self, chunks: Sequence[bytes]) -> tuple[int, int]:
        """Return (number of leading chunks held, tokens up to there)."""
        entries = self.entries
        tokens = 0
        for count, chunk in enumerate(chunks):
            held = entries.get(chunk)
            if held is None:
                return count, tokens
            tokens = held
        return len(chunks), tokens

    def store(self, chunks: Sequence[bytes], tokens_per_chunk: float, pictures: Sequence[tuple[int, int]] = ()) -> None:
        """Note that all `chunks` of a prompt are held, now the most recently used. `pictures` are (leading chunks that
        hold it, tokens) of what is in the prompt besides its text."""
        entries = self.entries
        move_to_end, count = entries.move_to_end, min(len(chunks), self.capacity)
        # The deepest first: then a chain loses its end before its beginning, without which the end is worth nothing.
        for chunk in chunks[count - 1 :: -1] if count else ():
            tokens = round(count * tokens_per_chunk)
            if pictures:
                tokens += sum(more for before, more in pictures if before <= count)
            entries[chunk] = tokens
            move_to_end(chunk)
            count -= 1
        self.resize(self.capacity)

    def holds(self, chunk: bytes, tokens: int) -> bool:
        """True when `chunk` is held, `tokens` from its prompt's start."""
        return self.entries.get(chunk) == tokens

    def resize(self, capacity: int) -> None:
        """Hold at most `capacity` chunks from now on."""
        self.capacity = capacity
        while len(self.entries) > capacity:
            self.entries.popitem(last=False)

    def forget(self, chunks: Sequence[bytes]) -> None:
        """Note that none of `chunks` is held."""
        for chunk in chunks:
            self.entries.pop(chunk, None)

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
