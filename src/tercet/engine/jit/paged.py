"""The compiled kernels that read and write the KV pool, behind tensors."""

from __future__ import annotations

from functools import cache

import torch

from tercet.engine.jit.attention import DecodeKernel, DecodeShape
from tercet.engine.jit.compiler import Compiled
from tercet.engine.jit.emitter import I64, PTR, WIDTH, Emitter, integer
from tercet.engine.jit.prefill import PrefillKernel
from tercet.engine.kv_pool import KVPool
from tercet.engine.step_plan import DecodeGroup, PrefillChunk


class PagedKernels:
    """Attention and the storing of keys and values, for one pool and one number of query heads."""

    def __init__(self, pool: KVPool, shape: DecodeShape, *, prefill: bool) -> None:
        self._pool = pool
        self._shape = shape
        self._decode = DecodeKernel(shape)
        self._prefill = PrefillKernel(shape) if prefill and PrefillKernel.supports(shape) else None
        self._working: tuple[torch.Tensor, ...] = ()
        self._addresses = tuple(rows.data_ptr() for rows in pool.rows)
        self._scratch = torch.empty(0)

    @classmethod
    def build(cls, pool: KVPool, heads: int, *, prefill: bool = False) -> PagedKernels | None:
        """Return the kernels for `heads` query heads, or None when the shape does not suit them.

        `prefill`: that of bf16 prefill too, where the CPU has what it needs.
        """
        kv = pool.shape
        bf16 = kv.dtype == torch.bfloat16
        shape = DecodeShape(kv.kv_heads, heads // kv.kv_heads, kv.head_dim, kv.block_size, kv.block_elements, bf16)
        return cls(pool, shape, prefill=prefill) if shape.supported else None

    @property
    def prefills(self) -> bool:
        """True when `prefill` may be called."""
        return self._prefill is not None

    def store(self, layer: int, slots: torch.Tensor, kv: torch.Tensor) -> None:
        """Write `kv` [tokens, 2 * kv_heads, head_dim], fp32 or bf16, in the pool's type to the tokens' `slots`."""
        if kv.stride(1) != kv.shape[2] or kv.stride(2) != 1:
            kv = kv.contiguous()
        store = _compiled_store(self._shape, kv.dtype == torch.bfloat16)
        store.call(kv.data_ptr(), slots.data_ptr(), self._addresses[layer], kv.shape[0], kv.stride(0))

    def decode(self, layer: int, group: DecodeGroup, q: torch.Tensor, scale: float, window: int) -> torch.Tensor:
        """Attend with `q` [sequences, heads, head_dim]; returns [sequences, heads * head_dim] fp32."""
        if q.dtype != torch.float32 or q.stride(1) != q.shape[2] or q.stride(2) != 1:
            q = q.float().contiguous()
        count, width = group.tables.shape
        needed = self._decode.scratch_elements(width)
        if needed > len(self._scratch):
            self._scratch = torch.empty(needed)
        out = torch.empty(count, self._shape.query_elements)
        self._decode.call(
            q.data_ptr(),
            out.data_ptr(),
            self._addresses[layer],
            group.tables.data_ptr(),
            group.lengths.data_ptr(),
            self._scratch.data_ptr(),
            count,
            width,
            q.stride(0),
            window,
            scale,
        )
        return out

    def prefill(
        self, layer: int, chunk: PrefillChunk, q: torch.Tensor, out: torch.Tensor, scale: float, window: int
    ) -> None:
        """Attend with `q` [rows, heads, head_dim] bf16, the chunk's last rows, into `out` [rows, heads * head_dim]."""
        if self._prefill is None:
            raise RuntimeError("there is no prefill kernel here: look at `prefills`")
        if q.stride(1) != q.shape[2] or q.stride(2) != 1:
            q = q.contiguous()
        rows = q.shape[0]
        context = chunk.start + chunk.last - chunk.first
        needed = self._prefill.scratch_elements(context)
        if not self._working or needed[0] > len(self._working[0]):
            kinds = (torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16)
            self._working = tuple(torch.empty(n, dtype=kind) for n, kind in zip(needed, kinds, strict=True))
        self._prefill.call(
            q.data_ptr(),
            out.data_ptr(),
            self._addresses[layer],
            chunk.table.data_ptr(),
            *(part.data_ptr() for part in self._working),
            rows,
            context - rows,
            q.stride(0),
            window,
            scale,
        )


@cache  # machine code is immutable: one copy a process
def _compiled_store(shape: DecodeShape, source_bf16: bool) -> Compiled:
    return Compiled(StoreWriter(shape, source_bf16))


class StoreWriter(Emitter):
    """store(kv, slots, pool, tokens, stride): kv [tokens, stride] -> the pool's rows at slots [tokens] int64."""

    def __init__(self, shape: DecodeShape, source_bf16: bool) -> None:
        super().__init__("store", [PTR] * 3 + [I64] * 2)
        kv, slots, pool, tokens, stride = self.args
        b = self.b
        size, dim = integer(shape.block_size), integer(shape.head_dim)
        with self.loop(integer(0), tokens) as token:
            slot = self.load(slots, I64, token)
            block = b.mul(b.sdiv(slot, size), integer(shape.block_elements))
            place = b.add(block, b.mul(b.srem(slot, size), dim))
            source = b.mul(token, stride)
            with self.loop(integer(0), integer(2 * shape.kv_heads)) as head:
                row = b.add(place, b.mul(head, integer(shape.block_size * shape.head_dim)))
                start = b.add(source, b.mul(head, dim))
                for i in range(0, shape.head_dim, WIDTH):
                    value = self.load_numbers(kv, b.add(start, integer(i)), source_bf16)
                    self.store_numbers(value, pool, b.add(row, integer(i)), shape.bf16)
