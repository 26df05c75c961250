"""Keeping a device's KV pool and host memory in step, for devices whose pool transports can't reach.

Host memory is the truth: whatever a step writes on the device is copied out after it, and a sequence whose context this
device has not computed itself (it came by a transport, or from the prefix cache, whose blocks may have) is copied in
before its first step. That costs more copies than a device needs, and can't be wrong about who wrote what.
"""

from __future__ import annotations

from collections.abc import Iterator

from tercet.engine.kv_pool import KVPool
from tercet.engine.sequence import Batch, Chunk

_REMEMBERED = 4096  # sequences; one that was forgotten is copied in again


class Staging:
    """Copies blocks in before a step and out after it."""

    def __init__(self, pool: KVPool) -> None:
        self._pool = pool
        self._size = pool.shape.block_size
        self._resident: dict[
            str, tuple[int, list[int]]
        ] = {}  # sequence -> (computed tokens, the blocks that hold them)

    def before(self, batch: Batch) -> None:
        """Copy in the contexts that the device does not hold."""
        self._pool.stage_in([block for chunk in batch.chunks for block in self._missing(chunk)])

    def after(self, batch: Batch) -> None:
        """Copy out what the step wrote, and remember what the device holds now."""
        self._pool.stage_out([block for chunk in batch.chunks for block in self._written(chunk)])
        for chunk in batch.chunks:
            end = chunk.start + chunk.length
            self._resident.pop(chunk.sequence.id, None)
            self._resident[chunk.sequence.id] = end, chunk.sequence.blocks[: self._blocks(end)]
        while len(self._resident) > _REMEMBERED:
            del self._resident[next(iter(self._resident))]

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._size)

    def _missing(self, chunk: Chunk) -> list[int]:
        context = chunk.sequence.blocks[: self._blocks(chunk.start)]
        return [] if self._resident.get(chunk.sequence.id) == (chunk.start, context) else context

    def _written(self, chunk: Chunk) -> Iterator[int]:
        for number in range(chunk.start // self._size, self._blocks(chunk.start + chunk.length)):
            yield chunk.sequence.blocks[number]
