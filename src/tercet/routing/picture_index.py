"""Which pictures a rank's cache is believed to hold, and how many tokens each of them is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from tercet.routing.pictures import DEFAULT_TOKENS


class PictureIndex:
    """Keys of the pictures that one rank holds, with their tokens; bounded by both. The least recently used go
    first."""

    __slots__ = ("_capacity", "_held", "_limit", "_total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._capacity: int | None = None
        self._held: OrderedDict[str, int] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        """Return the number of pictures held."""
        return len(self._held)

    def __contains__(self, key: str) -> bool:
        """True when the picture is held."""
        return key in self._held

    def store(self, pictures: Iterable[tuple[str, int]]) -> None:
        """Note that these, (key, tokens), are held, now the most recently used."""
        for key, tokens in pictures:
            self._total += tokens - self._held.pop(key, 0)
            self._held[key] = tokens
        self._shrink()

    def resize(self, tokens: int) -> None:
        """Hold pictures of at most `tokens` tokens from now on."""
        self._capacity = tokens
        self._shrink()

    def forget(self, keys: Iterable[str]) -> None:
        """Note that these are not held."""
        for key in keys:
            self._total -= self._held.pop(key, 0)

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._total = 0

    def _shrink(self) -> None:
        while len(self._held) > self._limit or (self._capacity is not None and self._total > self._capacity):
            self._total -= self._held.popitem(last=False)[1]


class PictureTokens:
    """How many tokens each picture is to each model, as workers said; bounded, the least recently said go first."""

    __slots__ = ("_capacity", "_known", "_typical")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._typical: dict[str, int] = {}

    def of(self, model: str, key: str) -> int | None:
        """Return the tokens of a picture, None when nobody said."""
        return self._known.get((model, key))

    def typical(self, model: str) -> int:
        """Return what an unknown picture is likely to be: as many as the last known one."""
        return self._typical.get(model, DEFAULT_TOKENS)

    def learn(self, model: str, pictures: Iterable[tuple[str, int]]) -> None:
        """Take in (key, tokens) of pictures that a worker answered about."""
        for key, tokens in pictures:
            self._known[(model, key)] = tokens
            self._known.move_to_end((model, key))
            self._typical[model] = tokens
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
