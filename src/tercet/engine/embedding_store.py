"""The embedding pool with its bytes."""

from __future__ import annotations

from tercet.core.errors import UsageError
from tercet.core.image_ticket import blocks_for_rows
from tercet.engine.embedding_pool import EmbeddingPool, Entry
from tercet.engine.encoder import EmbeddingLayout

SPARE_BLOCKS = 64
"""A picture's last block is not full: what a prompt of many pictures needs beyond its tokens' blocks."""


class EmbeddingStore:
    """An EmbeddingPool over `memory`: block b starts at byte b * layout.block_bytes."""

    def __init__(self, layout: EmbeddingLayout, pool: EmbeddingPool, memory: memoryview) -> None:
        if memory.nbytes < pool.num_blocks * layout.block_bytes:
            raise ValueError(f"{memory.nbytes} bytes hold fewer than {pool.num_blocks} blocks of embeddings")
        self.layout, self.pool, self.memory = layout, pool, memory

    @property
    def occupied_bytes(self) -> int:
        """Bytes of embeddings kept, needed ones or not."""
        return self.pool.occupied * self.layout.block_bytes

    def write(self, entry: Entry, rows: memoryview) -> None:
        """Put an entry's rows in place. `rows` are contiguous, tokens * row_bytes bytes."""
        data, size = rows.cast("B"), self.layout.block_bytes
        if data.nbytes != entry.tokens * self.layout.row_bytes:
            raise ValueError(f"{data.nbytes} bytes of embeddings for {entry.tokens} rows of {self.layout.row_bytes}")
        for number, block in enumerate(entry.blocks):
            piece = data[number * size : (number + 1) * size]
            self.memory[block * size : block * size + piece.nbytes] = piece

    def read(self, entry: Entry) -> bytes:
        """Return an entry's rows."""
        size = self.layout.block_bytes
        data = b"".join(self.memory[block * size : (block + 1) * size] for block in entry.blocks)
        return data[: entry.tokens * self.layout.row_bytes]


def plan_pool(layout: EmbeddingLayout, cache_bytes: int, max_len: int, *, prefills: bool) -> EmbeddingPool:
    """Return the bookkeeping of a pool for sequences of up to `max_len` tokens.

    It has `cache_bytes` bytes, or what two of the longest prompts need if that is more. With `cache_bytes` 0 nothing
    is kept that nobody needs. Raises UsageError when cache_bytes is negative.
    """
    if cache_bytes < 0:
        raise UsageError(f"an embedding cache can't have {cache_bytes} bytes; 0 keeps nothing")
    longest = blocks_for_rows(max_len) + SPARE_BLOCKS
    blocks = max(cache_bytes // layout.block_bytes, 2 * longest)
    return EmbeddingPool(blocks, reserve=longest if prefills else 0, keep=cache_bytes > 0)
