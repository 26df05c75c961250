"""Host and device pools in step: the logic of a device's staged pool, with the CPU as the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tercet.engine.backend import CpuBackend
from tercet.engine.loader import load_model
from tercet.engine.torch_executor import TorchExecutor
from tests.unit.engine.model_lab import VOCAB, Driver, build, new_sequence, write_config

PROMPT = [(7 * i * i + 3 * i + 11) % VOCAB for i in range(37)]
STEPS = 6


class StagedBackend(CpuBackend):
    """A CPU whose pool is kept apart from host memory, as a CUDA device's is."""

    staged = True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def staged(folder: Path) -> TorchExecutor:
    backend = StagedBackend("fp32", 1, compiled=False)
    loaded = load_model(folder, backend, dtype="fp32", block_size=4, max_model_len=256, random_weights=True)
    return TorchExecutor(loaded, backend, 64, memoryview(bytearray(64 * loaded.kv.block_bytes)))


@pytest.fixture
def expected(folder: Path) -> Iterator[list[int]]:
    executor = build(folder)
    yield Driver(executor).run(new_sequence(PROMPT, range(12)), [37], STEPS)
    executor.close()


def move(source: TorchExecutor, blocks: range, target: TorchExecutor, to: range) -> None:
    """What a transport does: copy blocks as bytes between host memories."""
    size = source.layout.block_bytes
    for a, b in zip(blocks, to, strict=True):
        target.pool[b * size : (b + 1) * size] = source.pool[a * size : (a + 1) * size]


def test_a_staged_pool_answers_the_same(folder: Path, expected: list[int]) -> None:
    assert Driver(staged(folder)).run(new_sequence(PROMPT, range(12)), [20, 17], STEPS) == expected


def test_blocks_go_out_after_a_step_and_come_in_before_the_first(folder: Path, expected: list[int]) -> None:
    source, target = staged(folder), staged(folder)
    prefilled = new_sequence(PROMPT, range(12))
    Driver(source).run(prefilled, [30, 7], 0)
    Driver(target).run(new_sequence(PROMPT[::-1], range(20, 32)), [37], 1)  # other contents where the blocks will go
    move(source, range(10), target, range(20, 30))
    received = new_sequence(PROMPT, range(20, 32))
    received.id = "received"
    received.tokens.append(prefilled.tokens[-1])
    received.computed = 37
    Driver(target).decode(received, steps=STEPS)
    assert received.tokens[37:] == expected


def test_a_prefix_that_came_by_transport_serves_others(folder: Path, expected: list[int]) -> None:
    """Even when the sequence it came for never made a step here."""
    source, target = staged(folder), staged(folder)
    Driver(source).run(new_sequence(PROMPT, range(12)), [37], 0)
    move(source, range(8), target, range(40, 48))
    second = new_sequence(PROMPT, [*range(40, 48), *range(4)])
    second.computed = 32
    assert Driver(target).run(second, [5], STEPS) == expected


def test_a_recomputed_sequence_with_other_blocks_is_not_taken_for_resident(folder: Path, expected: list[int]) -> None:
    executor = staged(folder)
    driver = Driver(executor)
    sequence = new_sequence(PROMPT, range(12))
    driver.step((sequence, 32))
    move(executor, range(8), executor, range(50, 58))
    sequence.blocks = [*range(50, 58), *range(20, 24)]  # preempted, and found its prefix in other blocks
    assert driver.run(sequence, [5], STEPS) == expected
