"""Paged attention over the block pool."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F

from tercet.engine.kv_pool import KVPool
from tercet.engine.step_plan import DecodeGroup, PrefillChunk, StepPlan

NO_WINDOW = 0
TILE = 128  # query rows of one prefill tile: short enough to skip most of the upper triangle


class PagedOps(Protocol):
    """Compiled kernels over a pool. Implementation: jit.paged.PagedKernels."""

    def store(self, layer: int, slots: torch.Tensor, kv: torch.Tensor) -> None:
        """Write `kv` [tokens, 2 * kv_heads, head_dim] to the tokens' `slots` [tokens]."""
        ...

    def decode(self, layer: int, group: DecodeGroup, q: torch.Tensor, scale: float, window: int) -> torch.Tensor:
        """Attend with `q` [sequences, heads, head_dim]; returns [sequences, heads * head_dim] fp32."""
        ...

    @property
    def prefills(self) -> bool:
        """True when `prefill` may be called."""
        ...

    def prefill(
        self, layer: int, chunk: PrefillChunk, q: torch.Tensor, out: torch.Tensor, scale: float, window: int
    ) -> None:
        """Attend with `q` [rows, heads, head_dim] bf16, the chunk's last rows, into `out` [rows, heads * head_dim]."""
        ...


class _Buffer:
    """Memory that is used again and again: fresh megabytes would cost a page fault every 4 KiB."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._memory = torch.empty(0, dtype=dtype, device=device)

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a contiguous tensor of `shape` with arbitrary content."""
        count = math.prod(shape)
        if count > len(self._memory):
            self._memory = torch.empty(count, dtype=self._memory.dtype, device=self._memory.device)
        return self._memory[:count].view(shape)


class PagedAttention:
    """Writes a step's keys and values into the pool and attends over the pool.

    Every context is read back from the pool, the step's own tokens too, so an answer depends neither on how the
    prompt was chunked nor on what else is in the batch, whatever the pool's precision.
    """

    def __init__(self, pool: KVPool, compute_dtype: torch.dtype, kernels: PagedOps | None = None) -> None:
        """With `kernels`, decode and storing run in them, prefill too where they can; without, in torch operators."""
        self._pool = pool
        self._dtype = compute_dtype
        self._heads = pool.shape.kv_heads
        self._dim = pool.shape.head_dim
        self._kernels = kernels
        self._prefills = kernels is not None and kernels.prefills and compute_dtype == torch.bfloat16
        device = pool.rows[0].device
        self._gathered = _Buffer(pool.shape.dtype, device)
        self._converted = _Buffer(compute_dtype, device)

    @property
    def pads(self) -> bool:
        """True when decode rows of unlike length should be planned in groups."""
        return self._kernels is None

    def write(self, plan: StepPlan, layer: int, kv: torch.Tensor) -> None:
        """Store keys and values `kv` [tokens, 2 * kv_heads, head_dim] (keys' heads first) of the step's tokens."""
        if self._kernels is not None:
            self._kernels.store(layer, plan.slots, kv)
            return
        index = plan.memo.get(("slots", 0, 0, 0))
        if index is None:
            index = plan.memo["slots", 0, 0, 0] = self._pool.slot_index(plan.slots)
        source = kv.to(self._pool.shape.dtype).reshape(-1, self._dim)
        self._pool.slots[layer].index_copy_(0, index, source)

    def read(
        self, plan: StepPlan, layer: int, q: torch.Tensor, scale: float, *, window: int = NO_WINDOW, last: bool = False
    ) -> torch.Tensor:
        """Attend: `q` [tokens, heads, head_dim] -> [tokens, heads * head_dim].

        `window` > 0 limits each token to itself and the window - 1 before it. With `last` only the sampled rows are
        computed and returned: all that a model's last layer needs.
        """
        out = torch.empty(q.shape[0], q.shape[1] * q.shape[2], dtype=q.dtype, device=q.device)
        for group in plan.decode:
            rows = q[group.first : group.last]
            if self._kernels is not None:
                out[group.first : group.last] = self._kernels.decode(layer, group, rows, scale, window)
            else:
                out[group.first : group.last] = self._decode(plan, layer, rows, scale, window, group)
        for chunk in plan.prefill:
            if chunk.samples or not last:
                first = chunk.last - 1 if last else chunk.first
                if self._kernels is not None and self._prefills:
                    part = slice(first, chunk.last)
                    self._kernels.prefill(layer, chunk, q[part], out[part], scale, window)
                else:
                    self._prefill(plan, layer, q, scale, window, chunk, first, out)
        return out[plan.sampled] if last else out

    def _context(self, plan: StepPlan, layer: int, first: int, tables: torch.Tensor) -> torch.Tensor:
        """Return [2, sequences * kv_heads, tokens, head_dim] in the compute type; valid until the next call.

        `first` is the first row of the reader: its name in the plan's memo.
        """
        index = plan.memo.get(("rows", first, 0, 0))
        if index is None:
            index = plan.memo["rows", first, 0, 0] = self._pool.row_index(tables)
        shape = (len(index), self._pool.rows[layer].shape[1])
        rows = torch.index_select(self._pool.rows[layer], 0, index, out=self._gathered.take(shape))
        if rows.dtype != self._dtype:
            rows = self._converted.take(shape).copy_(rows)
        sequences, width = tables.shape
        return rows.view(2, sequences * self._heads, width * self._pool.shape.block_size, self._dim)

    def _decode(
        self, plan: StepPlan, layer: int, q: torch.Tensor, scale: float, window: int, group: DecodeGroup
    ) -> torch.Tensor:
        keys, values = self._context(plan, layer, group.first, group.tables)
        query = q.reshape(len(q) * self._heads, -1, self._dim)
        mask = self._decode_mask(plan, group, keys.shape[1], window)
        scores = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=scale)
        return torch.bmm(torch.softmax(scores, dim=-1), values).view(len(q), -1)

    def _prefill(
        self,
        plan: StepPlan,
        layer: int,
        q: torch.Tensor,
        scale: float,
        window: int,
        chunk: PrefillChunk,
        first: int,
        out: torch.Tensor,
    ) -> None:
        """Attend with rows first .. chunk.last - 1 of `q`, in tiles that see no more of the context than they need."""
        keys, values = self._context(plan, layer, chunk.first, chunk.table)
        groups = q.shape[1] // self._heads
        for begin in range(first, chunk.last, TILE):
            end = min(begin + TILE, chunk.last)
            context = chunk.start + end - chunk.first
            shape = (self._heads, groups, context, self._dim)
            # Query heads of one KV head are the second dimension; the expanded view shares their keys without a copy.
            query = q[begin:end].view(end - begin, self._heads, groups, self._dim).permute(1, 2, 0, 3)
            result = F.scaled_dot_product_attention(
                query,
                keys[:, None, :context].expand(shape),
                values[:, None, :context].expand(shape),
                attn_mask=self._tile_mask(plan, end - begin, context, window),
                scale=scale,
            )
            out[begin:end].view(end - begin, self._heads, groups, self._dim).copy_(result.permute(2, 0, 1, 3))

    def _decode_mask(self, plan: StepPlan, group: DecodeGroup, width: int, window: int) -> torch.Tensor:
        """Return [sequences * kv_heads, 1, width]: 0 where a token may look, else -inf."""
        key = ("decode", group.first, width, window)
        mask = plan.memo.get(key)
        if mask is None:
            mask = self._mask(group.lengths - 1, width, window).repeat_interleave(self._heads, 0)[:, None]
            plan.memo[key] = mask
        return mask

    def _tile_mask(self, plan: StepPlan, rows: int, context: int, window: int) -> torch.Tensor:
        """Return [rows, context] for the context's last `rows` tokens: 0 where a token may look, else -inf."""
        key = ("tile", rows, context, window)
        mask = plan.memo.get(key)
        if mask is None:
            positions = torch.arange(context - rows, context, device=plan.positions.device)
            mask = plan.memo[key] = self._mask(positions, context, window)
        return mask

    def _mask(self, positions: torch.Tensor, width: int, window: int) -> torch.Tensor:
        """Return [positions, width]: 0 for columns that a token at each position may see, else -inf."""
        column = torch.arange(width, device=positions.device)
        hidden = column > positions[:, None]
        if window:
            hidden |= column <= positions[:, None] - window
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=hidden.device)
        return mask.masked_fill_(hidden, -torch.inf)
