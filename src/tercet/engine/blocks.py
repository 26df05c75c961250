"""The paged KV pool's bookkeeping: who uses which block, and which blocks still hold a known prefix. No bytes here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq


class BlockPool:
    """Reference counts of `num_blocks` blocks, and an index from block hash to the block that holds it.

    A block is *owned* (references > 0), *idle* (unreferenced, contents known, kept until room is needed; the least
    recently used goes first) or *free*.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.frees = 0
        """How often blocks were given back: whoever waits for room need not look again before this changes."""
        self._references: list[int] = []
        self._hash_of: list[bytes | None] = []
        self._by_hash: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._free: list[int] = []
        """Blocks that were given back. Those that nobody had yet come after, in order: a pool costs what it was used
        for, not what it could hold."""

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out: free and idle ones."""
        return self.num_blocks - len(self._references) + len(self._free) + len(self._idle)

    @property
    def in_use(self) -> int:
        """Blocks that somebody owns."""
        return self.num_blocks - self.available

    @property
    def idle(self) -> int:
        """Unreferenced blocks kept for their prefix."""
        return len(self._idle)

    def references(self, block: int) -> int:
        """Return how many owners a block has."""
        return self._references[block] if block < len(self._references) else 0

    def allocate(self, count: int) -> list[int]:
        """Return `count` blocks with one reference each; the caller has checked `available`."""
        if count > self.available:
            raise RuntimeError(f"{count} blocks wanted, {self.available} available")
        free, references = self._free, self._references
        blocks = []
        for _ in range(count):
            if free:
                block = free.pop()
                references[block] = 1
            elif (block := len(references)) < self.num_blocks:
                references.append(1)
                self._hash_of.append(None)
            else:
                block = self._evict()
                references[block] = 1
            blocks.append(block)
        return blocks

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix of `hashes`. Takes no reference."""
        blocks = []
        for block_hash in hashes:
            block = self._by_hash.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def count_idle(self, blocks: Iterable[int]) -> int:
        """Return how many of `blocks` are unreferenced: sharing those uses up room."""
        return sum(1 for block in blocks if block in self._idle)

    def share(self, blocks: Iterable[int]) -> None:
        """Take one more reference to each of these blocks, found by `match`."""
        for block in blocks:
            if self._references[block] == 0:
                del self._idle[block]
            self._references[block] += 1

    def remember(self, block: int, block_hash: bytes) -> None:
        """Enter a full, computed block into the index, unless another block already holds the same."""
        if self._by_hash.setdefault(block_hash, block) == block:
            self._hash_of[block] = block_hash

    def free(self, blocks: Seq[int]) -> None:
        """Drop one reference to each block. A prefix's last blocks are evicted before its first."""
        self.frees += 1
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._hash_of[block] is None:
                    self._free.append(block)
                else:
                    self._idle[block] = None
            elif self._references[block] < 0:
                raise RuntimeError(f"block {block} was freed twice")

    def forget_idle(self) -> bool:
        """Drop all idle blocks; True when nothing is left in the index (an owned block's prefix stays known)."""
        while self._idle:
            self._free.append(self._evict())
        return not self._by_hash

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        known = self._hash_of[block]
        assert known is not None
        del self._by_hash[known]
        self._hash_of[block] = None
        return block
