"""What blocks a sequence gets: its cached prefix, room for the rest, and its own full blocks into the cache."""

from __future__ import annotations

from tercet.core.hashing import extend_block_hashes
from tercet.engine.blocks import BlockPool
from tercet.engine.sequence import Sequence


class Allocation:
    """The only writer of `Sequence.blocks`, `block_hashes` and `computed`."""

    def __init__(self, pool: BlockPool, block_size: int, prefix_caching: bool) -> None:
        self.pool = pool
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.prefix_queries = 0
        self.prefix_hits = 0

    def blocks_for(self, tokens: int) -> int:
        """Return how many blocks `tokens` tokens fill."""
        return -(-tokens // self.block_size)

    def cached(self, sequence: Sequence) -> int:
        """Return how many leading tokens `admit` would find computed."""
        return len(self._match(sequence)) * self.block_size

    def admit(self, sequence: Sequence, tokens: int, spare: int) -> bool:
        """Give a sequence blocks for its first `tokens` tokens if `spare` blocks remain available after that.

        Starts with the longest cached prefix, but leaves at least the last known token to be computed: only that
        yields logits. Sets `computed` to the prefix found.
        """
        known = self._match(sequence)
        missing = self.blocks_for(tokens) - len(known)
        if missing + self.pool.count_idle(known) + spare > self.pool.available:
            return False
        self.pool.share(known)
        sequence.blocks = known + self.pool.allocate(missing)
        sequence.computed = len(known) * self.block_size
        if sequence.preemptions == 0:
            sequence.cached_tokens = sequence.computed
            self.prefix_queries += sequence.prompt_len
            self.prefix_hits += sequence.computed
        return True

    def _match(self, sequence: Sequence) -> list[int]:
        if not self.prefix_caching:
            return []
        extend_block_hashes(sequence.block_hashes, sequence.tokens, self.block_size, sequence.root, sequence.images)
        most = (len(sequence.tokens) - 1) // self.block_size
        return self.pool.match(sequence.block_hashes[:most])

    def grow(self, sequence: Sequence) -> None:
        """Append one block; the caller has checked that one is available."""
        sequence.blocks += self.pool.allocate(1)

    def computed(self, sequence: Sequence, end: int) -> None:
        """Note that the KV of tokens[:end] is in place; blocks that became full enter the prefix cache."""
        first, last = sequence.computed // self.block_size, end // self.block_size
        sequence.computed = end
        if last > first and self.prefix_caching:
            blocks, hashes = sequence.blocks, sequence.block_hashes
            if len(hashes) < last:
                extend_block_hashes(hashes, sequence.tokens, self.block_size, sequence.root, sequence.images)
            self.pool.remember(blocks[first:last], hashes[first:last])

    def free(self, sequence: Sequence) -> None:
        """Take all blocks back. What is full and known stays in the cache until room is needed."""
        self.pool.free(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0
