"""The bookkeeping of embeddings kept by content: whose blocks, who needs them, who goes first. No bytes here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from tercet.core.image_ticket import blocks_for_rows


@dataclass(slots=True)
class Entry:
    """One picture's embeddings: `tokens` rows in `blocks`, in order; `ready` when they are there.

    `pins` count running sequences and loads, which end by themselves; `leases` count tickets that are out and sequences
    that wait: those may last.
    """

    key: str
    tokens: int
    blocks: tuple[int, ...]
    pins: int = 0
    leases: int = 0
    ready: bool = False


class EmbeddingPool:
    """Entries by picture key over `num_blocks` blocks. Unused ones stay, if `keep`, until room is needed (LRU).

    Entries with leases fill at most num_blocks - `reserve` blocks. A sequence that needs no more than `reserve` blocks
    thus gets them as soon as those before it, whose pins end by themselves, are done: leases alone never block it.
    """

    def __init__(self, num_blocks: int, *, reserve: int = 0, keep: bool = True) -> None:
        if not 0 <= reserve <= num_blocks:
            raise ValueError(f"{reserve} of {num_blocks} blocks can't be reserved")
        self.num_blocks, self.reserve, self.keep = num_blocks, reserve, keep
        self.frees = 0
        """How often something became available: whoever waits for room need not look again before this changes."""
        self.hits = self.misses = self.joined = self.evictions = 0
        self._entries: dict[str, Entry] = {}
        self._idle: OrderedDict[str, Entry] = OrderedDict()
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle_blocks = self._leased_blocks = 0

    @property
    def available(self) -> int:
        """Blocks that can be had: free ones, and those of entries nobody needs."""
        return len(self._free) + self._idle_blocks

    @property
    def occupied(self) -> int:
        """Blocks that hold embeddings, needed ones or not."""
        return self.num_blocks - len(self._free)

    @property
    def in_use(self) -> int:
        """Blocks of entries that somebody needs."""
        return self.num_blocks - self.available

    def get(self, key: str) -> Entry | None:
        """Return the entry of a picture, ready or being loaded."""
        return self._entries.get(key)

    def ready(self, key: str, tokens: int) -> bool:
        """Return whether a picture's embeddings are here, as so many rows."""
        entry = self._entries.get(key)
        return entry is not None and entry.ready and entry.tokens == tokens

    def has_room(self, wanted: Mapping[str, int]) -> bool:
        """Return whether these pictures, key to rows, can all be pinned or reserved at once."""
        needed = 0
        for key, tokens in wanted.items():
            entry = self._entries.get(key)
            needed += blocks_for_rows(tokens) if entry is None else len(entry.blocks) * (key in self._idle)
        return needed <= self.available

    def can_lease(self, wanted: Mapping[str, int], spare: int = 0) -> bool:
        """Return whether these pictures, key to rows, here or to be reserved, may all be leased now, and `spare` blocks
        of others some day beside them."""
        more = 0
        for key, tokens in wanted.items():
            entry = self._entries.get(key)
            if entry is None or not entry.leases:
                more += blocks_for_rows(tokens)
        return more == 0 or (
            self._leased_blocks + more + spare <= self.num_blocks - self.reserve and self.has_room(wanted)
        )

    def could_lease(self, tokens: int, pictures: int) -> bool:
        """Return whether so many pictures of so many rows each could ever be leased together."""
        return blocks_for_rows(tokens) * pictures <= self.num_blocks - self.reserve

    def reserve_entry(self, key: str, tokens: int) -> Entry:
        """Make the entry of a picture about to be loaded, with one pin; the caller has checked that there is room."""
        if key in self._entries:
            raise RuntimeError(f"picture {key} is here already")
        count = blocks_for_rows(tokens)
        if count > self.available:
            raise RuntimeError(f"{count} blocks of embeddings wanted, {self.available} available")
        while len(self._free) < count:
            _, oldest = self._idle.popitem(last=False)
            self._idle_blocks -= len(oldest.blocks)
            self.evictions += 1
            self._remove(oldest)
        entry = Entry(key, tokens, tuple(self._free.pop() for _ in range(count)), pins=1)
        self._entries[key] = entry
        return entry

    def loaded(self, key: str) -> None:
        """Note that an entry's rows are in place."""
        self._entries[key].ready = True
        self.frees += 1

    def pin(self, key: str) -> None:
        """Keep an entry until `unpin`."""
        self._entries[key].pins += 1
        self._wake(key)

    def unpin(self, key: str) -> None:
        """End one pin; the last one of an entry that was never loaded removes it."""
        entry = self._entries[key]
        if entry.pins == 0:
            raise RuntimeError(f"picture {key} is not pinned")
        entry.pins -= 1
        self._rest(entry)

    def lease(self, key: str) -> Entry:
        """Keep an entry until `unlease`; the caller has checked `can_lease`."""
        entry = self._entries[key]
        if entry.leases == 0:
            self._leased_blocks += len(entry.blocks)
        entry.leases += 1
        self._wake(key)
        return entry

    def unlease(self, key: str) -> None:
        """End one lease."""
        entry = self._entries[key]
        if entry.leases == 0:
            raise RuntimeError(f"picture {key} is not leased")
        entry.leases -= 1
        if entry.leases == 0:
            self._leased_blocks -= len(entry.blocks)
        self._rest(entry)

    def forget_idle(self) -> None:
        """Drop every entry that nobody needs."""
        while self._idle:
            _, entry = self._idle.popitem()
            self._remove(entry)
        self._idle_blocks = 0

    def _wake(self, key: str) -> None:
        entry = self._idle.pop(key, None)
        if entry is not None:
            self._idle_blocks -= len(entry.blocks)

    def _rest(self, entry: Entry) -> None:
        self.frees += 1
        if entry.pins or entry.leases:
            return
        if entry.ready and self.keep:
            self._idle[entry.key] = entry
            self._idle_blocks += len(entry.blocks)
        else:
            self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._free.extend(reversed(entry.blocks))
