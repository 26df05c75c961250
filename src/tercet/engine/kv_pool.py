"""The KV pool as tensors: block-major, a block of all layers is one contiguous run of bytes.

Inside a block: [layer][key, value][KV head][token][dim]. So (layer, key or value, head) of a block is one *row* of
block_size * head_dim numbers, and rows of all blocks, heads and sequences can be gathered in any order by one
index_select, without a transpose.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class KVShape:
    """What decides a block's bytes."""

    layers: int
    kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of all layers, keys and values."""
        return 2 * self.layers * self.kv_heads * self.block_size * self.head_dim * self.dtype.itemsize

    @property
    def block_elements(self) -> int:
        """Numbers in one block."""
        return self.block_bytes // self.dtype.itemsize

    @property
    def rows_per_block(self) -> int:
        """Rows (layer, key or value, head) in a block."""
        return 2 * self.layers * self.kv_heads


class KVPool:
    """Tensor views of the pool's memory.

    `memory` holds num_blocks * block_bytes bytes. On a CPU the tensors are that memory; with `staged` they live on
    `device` and `memory` is the transports' staging area (stage_in, stage_out).
    """

    def __init__(self, shape: KVShape, num_blocks: int, memory: memoryview, device: torch.device, staged: bool) -> None:
        self.shape = shape
        self.num_blocks = num_blocks
        host = torch.frombuffer(memory, dtype=shape.dtype, count=num_blocks * shape.block_bytes // shape.dtype.itemsize)
        self._host = host.view(num_blocks, -1)
        self._blocks = torch.zeros_like(self._host, device=device) if staged else self._host
        self._staged = staged
        rows = self._blocks.view(num_blocks * shape.rows_per_block, shape.block_size * shape.head_dim)
        slots = rows.view(-1, shape.head_dim)
        per_layer = 2 * shape.kv_heads
        # A view that starts at the layer's first row serves every layer with the same indices (those of layer 0).
        self.rows = tuple(rows[layer * per_layer :] for layer in range(shape.layers))
        self.slots = tuple(slots[layer * per_layer * shape.block_size :] for layer in range(shape.layers))
        heads = torch.arange(per_layer, device=device)
        self._row_heads = heads.view(2, 1, shape.kv_heads, 1)
        self._slot_heads = heads.view(1, per_layer) * shape.block_size

    def row_index(self, tables: torch.Tensor) -> torch.Tensor:
        """Return layer 0's rows of blocks `tables` [sequences, width], flat: (key/value, sequence, head, block)."""
        first = tables * self.shape.rows_per_block
        return (first[None, :, None, :] + self._row_heads).flatten()

    def slot_index(self, slots: torch.Tensor) -> torch.Tensor:
        """Return where in layer 0's slots tokens at `slots` [tokens] (block * block_size + offset) go, flat.

        In the order (token, key/value, head).
        """
        size = self.shape.block_size
        first = (slots // size) * (self.shape.rows_per_block * size) + slots % size
        return (first[:, None] + self._slot_heads).flatten()

    def stage_in(self, blocks: Seq[int]) -> None:
        """Copy blocks that a transport wrote into host memory to the device."""
        if self._staged and blocks:
            index = torch.tensor(blocks)
            self._blocks[index.to(self._blocks.device)] = self._host[index].to(self._blocks.device)

    def stage_out(self, blocks: Seq[int]) -> None:
        """Copy blocks from the device to host memory, where transports read them."""
        if self._staged and blocks:
            index = torch.tensor(blocks)
            self._host[index] = self._blocks[index.to(self._blocks.device)].cpu()
