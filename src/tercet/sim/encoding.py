"""The encode stage of one engine, and the host that prepares its pictures."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from tercet.sim.clock import Clock

MAX_BATCH = 8
BUSY_BATCH = 2
"""Pictures encoded at once, alone and beside sequences whose next tokens wait: as the built-in engine does it."""

Done = Callable[[], None]


class EmbeddingCache:
    """Which pictures' embeddings an engine keeps, up to so many tokens; the least recently used go first."""

    __slots__ = ("_held", "_tokens", "_total", "hits")

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._held: OrderedDict[str, int] = OrderedDict()
        self._total = 0
        self.hits = 0

    def __contains__(self, key: str) -> bool:
        """True when the picture is held."""
        return key in self._held

    def touch(self, key: str) -> None:
        """Count a hit."""
        self.hits += 1
        self._held.move_to_end(key)

    def store(self, key: str, tokens: int) -> None:
        """Keep a picture's embeddings."""
        self._total += tokens - self._held.pop(key, 0)
        self._held[key] = tokens
        while self._total > self._tokens:
            self._total -= self._held.popitem(last=False)[1]


class EncodeQueue:
    """Pictures that wait for an engine's encoder, first come, first served; the same picture is encoded once."""

    __slots__ = ("_making", "_queue", "_under_way", "cache", "encoded")

    def __init__(self, cache: EmbeddingCache) -> None:
        self.cache = cache
        self.encoded = 0
        self._queue: deque[tuple[str | None, int, list[Done]]] = deque()
        self._making: dict[str, list[Done]] = {}
        self._under_way: list[tuple[str | None, int, list[Done]]] = []

    def ask(self, key: str | None, tokens: int, done: Done) -> bool:
        """Want a picture; False when it is here, or on its way for another: nothing has to begin for it."""
        if key is not None:
            if key in self.cache:
                self.cache.touch(key)
                done()
                return False
            if (waiting := self._making.get(key)) is not None:
                waiting.append(done)
                return False
        wanted = [done]
        if key is not None:
            self._making[key] = wanted
        self._queue.append((key, tokens, wanted))
        return True

    def begin(self, busy: bool) -> int:
        """Take out the next batch, and return how many pictures it is."""
        most = BUSY_BATCH if busy else MAX_BATCH
        while self._queue and len(self._under_way) < most:
            self._under_way.append(self._queue.popleft())
        return len(self._under_way)

    def end(self) -> list[Done]:
        """Note that the batch is encoded; return who waited for it."""
        batch, self._under_way = self._under_way, []
        told: list[Done] = []
        for key, tokens, wanted in batch:
            self.encoded += 1
            if key is not None:
                del self._making[key]
                self.cache.store(key, tokens)
            told += wanted
        return told


class ImageHost:
    """A worker's host processes for pictures: `workers` fetch and decode side by side, the others wait."""

    __slots__ = ("_active", "_clock", "_each_s", "_queue", "_workers")

    def __init__(self, clock: Clock, workers: int, each_s: float) -> None:
        self._clock, self._workers, self._each_s = clock, max(workers, 1), each_s
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._active = 0

    def prepare(self, action: Callable[..., None], *args: Any) -> None:
        """Call `action(*args)` when one more picture is prepared."""
        self._queue.append((action, args))
        self._next()

    def _next(self) -> None:
        while self._queue and self._active < self._workers:
            self._active += 1
            self._clock.after(self._each_s, self._prepared, *self._queue.popleft())

    def _prepared(self, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        self._active -= 1
        action(*args)
        self._next()
