"""Every compiled kernel against the torch operators it replaces."""

from __future__ import annotations

import math

import pytest
import torch

from tercet.engine.attention import PagedAttention
from tercet.engine.jit.compiler import cpu_features
from tercet.engine.jit.gemm import DEPTH, ROW_BLOCK
from tercet.engine.jit.ops import JitOps
from tercet.engine.jit.paged import PagedKernels
from tercet.engine.kv_pool import KVPool, KVShape
from tercet.engine.ops import TorchOps
from tercet.engine.sequence import Batch, Chunk
from tercet.engine.step_plan import make_plan
from tests.unit.engine.model_lab import new_sequence


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(16, 8), (48, 100), (50, 64), (1, 3), (32, DEPTH), (32, DEPTH + 1), (16, 3 * DEPTH - 7)]
)
def test_linear_equals_torch(generator: torch.Generator, dtype: torch.dtype, outputs: int, inputs: int) -> None:
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    bias = torch.randn(outputs, generator=generator).to(dtype)
    linear, biased = JitOps(torch.float32).linear(weight, None), JitOps(torch.float32).linear(weight, bias)
    assert linear.weight.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    for rows in (1, 2, 3, 4, 5, 6, 7, 16, ROW_BLOCK, ROW_BLOCK + 5):
        x = torch.randn(rows, inputs, generator=generator)
        expected = (x.double() @ weight.double().T).float()
        torch.testing.assert_close(linear(x), expected, rtol=1e-5, atol=2e-6 * inputs)
        torch.testing.assert_close(biased(x), expected + bias.float(), rtol=1e-5, atol=2e-6 * inputs)


def test_a_rows_product_does_not_depend_on_its_batch(generator: torch.Generator) -> None:
    linear = JitOps(torch.float32).linear(torch.randn(80, 700, generator=generator).bfloat16(), None)
    x = torch.randn(123, 700, generator=generator)
    together = linear(x)
    for row in (0, 5, 6, 95, 96, 122):
        assert torch.equal(linear(x[row : row + 1])[0], together[row])
    assert torch.equal(linear(x[7:30]), together[7:30])


def test_linear_reads_rows_of_a_wider_tensor(generator: torch.Generator) -> None:
    linear = JitOps(torch.float32).linear(torch.randn(20, 24, generator=generator), None)
    wide = torch.randn(9, 60, generator=generator)
    assert torch.equal(linear(wide[:, 7:31]), linear(wide[:, 7:31].contiguous()))
    assert torch.equal(linear(wide[:, :48:2]), linear(wide[:, :48:2].contiguous()))


@pytest.mark.parametrize("width", [8, 64, 576, 20])
def test_add_norm_equals_torch(generator: torch.Generator, width: int) -> None:
    weight = torch.randn(width, generator=generator)
    for rows in (1, 7):
        hidden = torch.randn(rows, width, generator=generator) * 3
        delta = torch.randn(rows, width + 4, generator=generator)[:, :width]
        ours, theirs = hidden.clone(), hidden.clone()
        first = (
            JitOps(torch.float32).add_norm(ours, delta, weight, 1e-5),
            TorchOps(torch.float32).add_norm(theirs, delta, weight, 1e-5),
        )
        torch.testing.assert_close(*first)
        torch.testing.assert_close(ours, theirs)
        second = (
            JitOps(torch.float32).add_norm(ours, None, weight, 0.5),
            TorchOps(torch.float32).add_norm(theirs, None, weight, 0.5),
        )
        torch.testing.assert_close(*second)
        assert torch.equal(ours, hidden + delta)


def test_gate_equals_torch_over_all_magnitudes() -> None:
    gate = torch.cat([-torch.logspace(-6, 3, 500), torch.zeros(8), torch.logspace(-6, 3, 500)]).view(2, -1)
    gate_up = torch.cat([gate, torch.linspace(-2, 2, gate.numel()).view(2, -1)], 1)
    torch.testing.assert_close(
        JitOps(torch.float32).gate(gate_up.clone()),
        TorchOps(torch.float32).gate(gate_up.clone()),
        rtol=1e-5,
        atol=1e-30,
    )
    odd = gate_up[:, :10]
    assert torch.equal(JitOps(torch.float32).gate(odd.clone()), TorchOps(torch.float32).gate(odd.clone()))


@pytest.mark.parametrize("dim", [16, 64, 128, 24, 6])
def test_rotate_equals_torch_and_touches_nothing_else(generator: torch.Generator, dim: int) -> None:
    qkv = torch.randn(5, 7, dim, generator=generator)
    angles = torch.randn(5, dim // 2, generator=generator)
    ours, theirs = qkv.clone(), qkv.clone()
    JitOps(torch.float32).rotate(ours[:, :4], angles.cos(), angles.sin())
    TorchOps(torch.float32).rotate(theirs[:, :4], angles.cos(), angles.sin())
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(ours[:, 4:], qkv[:, 4:])
    torch.testing.assert_close(ours[:, :4].norm(dim=-1), qkv[:, :4].norm(dim=-1))


def test_bf16_sides_are_rounded_once(generator: torch.Generator) -> None:
    """With bf16 linears: hidden stays fp32, everything else is read and written in bf16."""
    hidden = torch.randn(6, 64, generator=generator)
    delta = torch.randn(6, 64, generator=generator).bfloat16()
    weight = torch.randn(64, generator=generator)
    ours, theirs = hidden.clone(), hidden.clone()
    normed = JitOps(torch.bfloat16).add_norm(ours, delta, weight, 1e-5)
    assert normed.dtype == torch.bfloat16 and torch.equal(ours, hidden + delta.float())
    torch.testing.assert_close(normed, TorchOps(torch.bfloat16).add_norm(theirs, delta, weight, 1e-5))
    gate_up = torch.randn(6, 64, generator=generator).bfloat16()
    exact = TorchOps(torch.float32).gate(gate_up.float()).bfloat16()
    torch.testing.assert_close(JitOps(torch.bfloat16).gate(gate_up.clone()), exact)
    x = torch.randn(6, 3, 32, generator=generator).bfloat16()
    angles = torch.randn(6, 16, generator=generator)
    mine, other = x.clone(), x.clone()
    JitOps(torch.bfloat16).rotate(mine[:, :2], angles.cos(), angles.sin())
    TorchOps(torch.bfloat16).rotate(other[:, :2], angles.cos(), angles.sin())
    torch.testing.assert_close(mine, other)
    assert torch.equal(mine[:, 2], x[:, 2])


LENGTHS = (1, 3, 4, 5, 8, 31, 77)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("window", [0, 1, 6, 30])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 2, 16), (4, 4, 8), (8, 1, 40), (8, 2, 128), (12, 1, 24)]
)
def test_decode_attention_equals_torch(
    generator: torch.Generator, dtype: torch.dtype, window: int, heads: int, kv_heads: int, dim: int
) -> None:
    shape = KVShape(layers=2, kv_heads=kv_heads, head_dim=dim, block_size=4, dtype=dtype)
    blocks = 64
    memory = memoryview(bytearray(blocks * shape.block_bytes))
    pool = KVPool(shape, blocks, memory, torch.device("cpu"), staged=False)
    torch.frombuffer(memory, dtype=dtype).copy_(torch.randn(blocks * shape.block_elements, generator=generator))
    order = torch.randperm(blocks, generator=generator).tolist()
    chunks = []
    for length in LENGTHS:
        count = -(-length // 4)
        sequence = new_sequence(range(length), order[:count])
        order = order[count:]
        chunks.append(Chunk(sequence, length - 1, 1, samples=True))
    kernels = PagedKernels.build(pool, heads)
    assert kernels is not None
    q = torch.randn(len(chunks), heads + 3, dim, generator=generator)[:, :heads] * 2
    answers = []
    for implementation in (kernels, None):
        attention = PagedAttention(pool, torch.float32, implementation)
        plan = make_plan(Batch(tuple(chunks)), 4, torch.device("cpu"), grouped=attention.pads)
        answers.append(attention.read(plan, 1, q, dim**-0.5, window=window))
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_decode_attention_survives_extreme_scores() -> None:
    """One key far above the rest takes all the weight: no overflow, no NaN."""
    shape = KVShape(layers=1, kv_heads=1, head_dim=8, block_size=4, dtype=torch.float32)
    memory = memoryview(bytearray(4 * shape.block_bytes))
    pool = KVPool(shape, 4, memory, torch.device("cpu"), staged=False)
    kernels = PagedKernels.build(pool, 1)
    assert kernels is not None
    kv = torch.zeros(9, 2, 8)
    kv[:, 0, 0] = torch.tensor([-1e4, 0.0, 1e4, -1e4, 5.0, -1e30, 0.0, 1.0, 2.0])
    kv[:, 1, 0] = torch.arange(9.0)
    kernels.store(0, torch.arange(9), kv)
    sequence = new_sequence(range(9), range(3))
    plan = make_plan(Batch((Chunk(sequence, 8, 1, True),)), 4, torch.device("cpu"), grouped=False)
    q = torch.zeros(1, 1, 8)
    q[0, 0, 0] = 3.0
    out = kernels.decode(0, plan.decode[0], q, 1.0, 0)
    assert out[0, 0] == 2.0 and torch.isfinite(out).all()


@pytest.mark.parametrize("source", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_store_rounds_and_places_as_torch_does(
    generator: torch.Generator, dtype: torch.dtype, source: torch.dtype
) -> None:
    shape = KVShape(layers=3, kv_heads=2, head_dim=24, block_size=4, dtype=dtype)
    memories = [memoryview(bytearray(8 * shape.block_bytes)) for _ in range(2)]
    kv = torch.randn(9, 6, 24, generator=generator)[:, 2:]
    kv[0, 0, :4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, math.inf, -0.0])  # ties, and what must stay
    sequence = new_sequence(range(9), (5, 0, 3))
    for memory, compiled in zip(memories, (True, False), strict=True):
        pool = KVPool(shape, 8, memory, torch.device("cpu"), staged=False)
        attention = PagedAttention(pool, torch.float32, PagedKernels.build(pool, 4) if compiled else None)
        plan = make_plan(Batch((Chunk(sequence, 0, 9, True),)), 4, torch.device("cpu"), grouped=attention.pads)
        attention.write(plan, 2, kv.to(source))
    assert bytes(memories[0]) == bytes(memories[1]) != bytes(len(memories[0]))


def test_shapes_that_do_not_suit_are_left_to_torch() -> None:
    shape = KVShape(layers=1, kv_heads=1, head_dim=12, block_size=4, dtype=torch.float32)
    pool = KVPool(shape, 2, memoryview(bytearray(2 * shape.block_bytes)), torch.device("cpu"), staged=False)
    assert PagedKernels.build(pool, 1) is None


def test_cpu_features_are_named_as_llvm_does() -> None:
    assert all(name == name.strip().lower() for name in cpu_features())
    assert cpu_features()
