"""Prefill attention in bf16 dot products against torch in fp32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tercet.engine.attention import PagedAttention
from tercet.engine.jit.attention import DecodeShape
from tercet.engine.jit.compiler import cpu_features
from tercet.engine.jit.paged import PagedKernels
from tercet.engine.jit.prefill import PANEL, PrefillKernel
from tercet.engine.kv_pool import KVPool, KVShape
from tercet.engine.sequence import Batch, Chunk
from tercet.engine.step_plan import make_plan
from tests.unit.engine.model_lab import new_sequence

BLOCK = 4
needs_bf16_units = pytest.mark.skipif("avx512bf16" not in cpu_features(), reason="this CPU has no bf16 dot products")


def filled_pool(kv_heads: int, dim: int, tokens: int, dtype: torch.dtype = torch.bfloat16) -> tuple[KVPool, list[int]]:
    """Return a pool with one sequence of random numbers, NaN elsewhere, and its blocks in random order."""
    generator = torch.Generator().manual_seed(tokens)
    count = -(-tokens // BLOCK)
    shape = KVShape(layers=2, kv_heads=kv_heads, head_dim=dim, block_size=BLOCK, dtype=dtype)
    pool = KVPool(
        shape, count + 3, memoryview(bytearray((count + 3) * shape.block_bytes)), torch.device("cpu"), staged=False
    )
    blocks = torch.randperm(count + 3, generator=generator)[:count].tolist()
    for rows in pool.rows:
        rows.fill_(torch.nan)
    plan = make_plan(
        Batch((Chunk(new_sequence(range(tokens), blocks), 0, tokens, True),)),
        BLOCK,
        torch.device("cpu"),
        grouped=False,
    )
    kv = torch.randn(tokens, 2 * kv_heads, dim, generator=generator)
    PagedAttention(pool, torch.float32).write(plan, 1, kv)
    return pool, blocks


def attend(
    pool: KVPool, blocks: list[int], q: torch.Tensor, start: int, window: int, *, compiled: bool, last: bool = False
) -> torch.Tensor:
    """Attend with q [tokens, heads, dim] as the tokens from position `start` on; torch in fp32 unless `compiled`."""
    kernels = PagedKernels.build(pool, q.shape[1], prefill=True) if compiled else None
    assert kernels is None or kernels.prefills
    query = q if compiled else q.float()
    attention = PagedAttention(pool, query.dtype, kernels)
    chunk = Chunk(new_sequence(range(start + len(q)), blocks), start, len(q), samples=True)
    plan = make_plan(Batch((chunk,)), BLOCK, torch.device("cpu"), grouped=attention.pads)
    return attention.read(plan, 1, query, q.shape[2] ** -0.5, window=window, last=last)


def queries(tokens: int, heads: int, dim: int) -> torch.Tensor:
    """Return rows of a wider tensor, as a layer's are."""
    wide = torch.randn(tokens, heads + 3, dim, generator=torch.Generator().manual_seed(1)) * 2
    return wide.bfloat16()[:, :heads]


@needs_bf16_units
@pytest.mark.parametrize("window", [0, 1, 7, 100])
@pytest.mark.parametrize(("start", "rows"), [(0, 2), (0, 150), (3, 5), (61, 70), (64, 64), (130, 3)])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 48), (4, 2, 128)])
def test_it_equals_torch(heads: int, kv_heads: int, dim: int, start: int, rows: int, window: int) -> None:
    pool, blocks = filled_pool(kv_heads, dim, start + rows)
    q = queries(rows, heads, dim)
    ours = attend(pool, blocks, q, start, window, compiled=True)
    theirs = attend(pool, blocks, q, start, window, compiled=False)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-2, atol=2e-2)
    assert (ours.float() - theirs).abs().mean() < 2e-3
    sampled = attend(pool, blocks, q, start, window, compiled=True, last=True)
    assert torch.equal(sampled, ours[-1:])


@needs_bf16_units
@pytest.mark.parametrize("window", [0, 9])
def test_an_answer_does_not_depend_on_how_the_prompt_was_chunked(window: int) -> None:
    tokens = 2 * PANEL + 13
    pool, blocks = filled_pool(3, 64, tokens)
    q = queries(tokens, 9, 64)
    whole = attend(pool, blocks, q, 0, window, compiled=True)
    for cut in (2, PANEL - 1, PANEL, 77):
        parts = [
            attend(pool, blocks[: -(-end // BLOCK)], q[begin:end], begin, window, compiled=True)
            for begin, end in ((0, cut), (cut, tokens))
        ]
        assert torch.equal(torch.cat(parts), whole)


@needs_bf16_units
def test_extreme_scores_neither_overflow_nor_vanish() -> None:
    """One key far above the rest takes all the weight; far below, all keys share it."""
    pool, blocks = filled_pool(1, 16, 40)
    q = torch.full((40, 1, 16), 3e4).bfloat16()
    ours = attend(pool, blocks, q, 0, 0, compiled=True)
    torch.testing.assert_close(ours.float(), attend(pool, blocks, q, 0, 0, compiled=False), rtol=1e-2, atol=1e-2)
    none = attend(pool, blocks, torch.zeros_like(q), 0, 0, compiled=True)
    expected = attend(pool, blocks, torch.zeros_like(q), 0, 0, compiled=False)
    torch.testing.assert_close(none.float(), expected, rtol=1e-2, atol=1e-2)


def test_it_is_only_there_for_bf16_in_whole_vectors() -> None:
    shape = DecodeShape(kv_heads=1, groups=2, head_dim=32, block_size=4, block_elements=256, bf16=True)
    assert PrefillKernel.supports(shape) == ({"avx512f", "avx512bf16"} <= cpu_features())
    changes: tuple[dict[str, Any], ...] = ({"bf16": False}, {"head_dim": 24}, {"block_size": 3})
    for change in changes:
        assert not PrefillKernel.supports(replace(shape, **change))
    pool, blocks = filled_pool(1, 32, 8, torch.float32)
    kernels = PagedKernels.build(pool, 2, prefill=True)
    assert kernels is not None and not kernels.prefills
    chunk = Chunk(new_sequence(range(8), blocks), 0, 8, samples=True)
    plan = make_plan(Batch((chunk,)), BLOCK, torch.device("cpu"), grouped=False)
    q = torch.zeros(8, 2, 32)
    with pytest.raises(RuntimeError, match="prefills"):
        kernels.prefill(1, plan.prefill[0], q, q.view(8, -1), 1.0, 0)
    assert PagedAttention(pool, torch.float32, kernels).read(plan, 1, q, 1.0).isfinite().all()
