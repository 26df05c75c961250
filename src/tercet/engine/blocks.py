"""The paged KV pool's bookkeeping: who uses which block, and which blocks still hold a known prefix. No bytes here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Seq

FEW = 64
"""So many outdated entries are not worth the tidying."""


class BlockPool:
    """Reference counts of `num_blocks` blocks, and an index from block hash to the block that holds it.

    A block is *owned* (references > 0), *idle* (unreferenced, contents known, kept until room is needed; the least
    recently used goes first) or *free*.

    A pool costs what it was used for, not what it could hold, and an idle block little: it is one of a run of blocks
    that became idle together, not an entry of its own. A simulation has millions of them.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.frees = 0
        """How often blocks were given back: whoever waits for room need not look again before this changes."""
        self.idle = 0
        """How many unreferenced blocks are kept for their prefix."""
        self._state: list[int] = []
        """Of each block used so far its references; when idle the number of its run, below 0; 0 when free."""
        self._hash_of: list[bytes | None] = []
        self._by_hash: dict[bytes, int] = {}
        self._runs: deque[tuple[int, list[int]]] = deque()
        """(number, blocks) that became idle, the longest ago first, of one run the last. What is idle no longer, or
        again, is passed over."""
        self._listed = 0
        """Blocks in all runs, the outdated entries as well."""
        self._free: list[int] = []
        """Blocks that were given back. Those that nobody had yet come after, in order."""

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out: free and idle ones."""
        return self.num_blocks - len(self._state) + len(self._free) + self.idle

    @property
    def in_use(self) -> int:
        """Blocks that somebody owns."""
        return self.num_blocks - self.available

    def references(self, block: int) -> int:
        """Return how many owners a block has."""
        return max(0, self._state[block]) if block < len(self._state) else 0

    def allocate(self, count: int) -> list[int]:
        """Return `count` blocks with one reference each; the caller has checked `available`."""
        if count > self.available:
            raise RuntimeError(f"{count} blocks wanted, {self.available} available")
        free, state = self._free, self._state
        blocks: list[int] = []
        if free and count:
            blocks = free[: -count - 1 : -1]
            del free[-count:]
        fresh = min(count - len(blocks), self.num_blocks - len(state))
        if fresh:
            first = len(state)
            state += [1] * fresh
            self._hash_of += [None] * fresh
            blocks += range(first, first + fresh)
            if fresh == count:
                return blocks
        while len(blocks) < count:
            blocks.append(self._evict())
        for block in blocks:
            state[block] = 1
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
        """Return how many of `blocks`, found by `match`, are unreferenced: sharing those uses up room."""
        state = self._state
        return sum([state[block] < 0 for block in blocks])

    def share(self, blocks: Iterable[int]) -> None:
        """Take one more reference to each of these blocks, found by `match`."""
        state = self._state
        for block in blocks:
            if state[block] < 0:
                state[block] = 1
                self.idle -= 1
            else:
                state[block] += 1

    def remember(self, blocks: Iterable[int], hashes: Iterable[bytes]) -> None:
        """Enter full, computed blocks into the index by their hashes, unless others already hold the same."""
        holder, hash_of = self._by_hash.setdefault, self._hash_of
        for block, block_hash in zip(blocks, hashes, strict=True):
            if holder(block_hash, block) == block:
                hash_of[block] = block_hash

    def free(self, blocks: Seq[int]) -> None:
        """Drop one reference to each block. A prefix's last blocks are evicted before its first."""
        self.frees += 1
        number = -self.frees
        state, hash_of = self._state, self._hash_of
        run: list[int] = []
        for block in reversed(blocks):
            left = state[block] - 1
            if left > 0:
                state[block] = left
            elif left < 0:
                raise RuntimeError(f"block {block} was freed twice")
            elif hash_of[block] is None:
                state[block] = 0
                self._free.append(block)
            else:
                state[block] = number
                run.append(block)
        if run:
            run.reverse()
            self.idle += len(run)
            self._listed += len(run)
            self._runs.append((number, run))
            if self._listed > 2 * self.idle + FEW:
                self._tidy()

    def forget_idle(self) -> bool:
        """Drop all idle blocks; True when nothing is left in the index (an owned block's prefix stays known)."""
        while self.idle:
            block = self._evict()
            self._state[block] = 0
            self._free.append(block)
        return not self._by_hash

    def _evict(self) -> int:
        """Return the block that became idle the longest ago, its contents forgotten."""
        while True:
            number, run = self._runs[0]
            block = run.pop()
            if not run:
                self._runs.popleft()
            self._listed -= 1
            if self._state[block] == number:
                break
        known = self._hash_of[block]
        assert known is not None
        del self._by_hash[known]
        self._hash_of[block] = None
        self.idle -= 1
        return block

    def _tidy(self) -> None:
        """Drop the outdated entries of all runs."""
        state = self._state
        kept = ((number, [block for block in run if state[block] == number]) for number, run in self._runs)
        self._runs = deque((number, run) for number, run in kept if run)
        self._listed = self.idle
