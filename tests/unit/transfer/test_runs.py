from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.errors import TransferError
from tercet.transfer.runs import Run, check_blocks, coalesce, copy, cut, pieces

BLOCKS = 24
BLOCK_BYTES = 8
SOURCE = bytes(range(BLOCKS * BLOCK_BYTES))
pairs = st.integers(0, BLOCKS).flatmap(
    lambda n: st.tuples(
        st.permutations(range(BLOCKS)).map(lambda ids: ids[:n]), st.permutations(range(BLOCKS)).map(lambda ids: ids[:n])
    )
)


def moved(runs: list[Run]) -> bytes:
    target = bytearray(len(SOURCE))
    for run in runs:
        copy(memoryview(target)[run.target : run.target + run.nbytes], memoryview(SOURCE)[run.source :][: run.nbytes])
    return bytes(target)


@given(pairs, st.integers(1, 40), st.integers(1, 3))
def test_every_way_of_cutting_moves_the_same_bytes(ids: tuple[list[int], list[int]], step: int, max_runs: int) -> None:
    remote, local = ids
    expected = bytearray(len(SOURCE))
    for source, target in zip(remote, local, strict=True):
        expected[target * BLOCK_BYTES : (target + 1) * BLOCK_BYTES] = SOURCE[source * BLOCK_BYTES :][:BLOCK_BYTES]
    runs = coalesce(remote, local, BLOCK_BYTES)
    assert moved(runs) == bytes(expected)
    assert moved(list(cut(runs, step))) == bytes(expected)
    messages = list(pieces(runs, step, max_runs))
    assert moved([run for message in messages for run in message]) == bytes(expected)
    assert all(sum(run.nbytes for run in message) <= step and len(message) <= max_runs for message in messages)
    assert sum(run.nbytes for message in messages for run in message) == len(remote) * BLOCK_BYTES


@pytest.mark.parametrize(
    ("remote", "local", "expected"),
    [
        ([], [], []),
        ([4, 5, 6], [0, 1, 2], [Run(32, 0, 24)]),
        ([6, 5, 4], [2, 1, 0], [Run(32, 0, 24)]),
        ([4, 5, 6], [2, 1, 0], [Run(32, 16, 8), Run(40, 8, 8), Run(48, 0, 8)]),
        ([0, 1, 9], [3, 4, 5], [Run(0, 24, 16), Run(72, 40, 8)]),
    ],
)
def test_contiguous_blocks_are_one_copy(remote: list[int], local: list[int], expected: list[Run]) -> None:
    assert coalesce(remote, local, 8) == expected


@pytest.mark.parametrize("ids", [[-1], [4], [0, 1, 9], [2, 2]])
def test_bad_blocks_are_refused(ids: list[int]) -> None:
    with pytest.raises(TransferError):
        check_blocks(ids, 4, "the local")


def test_good_blocks_pass() -> None:
    check_blocks([], 4, "the local")
    check_blocks([3, 0], 4, "the local")


def test_long_copies() -> None:
    source = bytes(range(256)) * (3 << 12)
    target = bytearray(len(source))
    copy(memoryview(target), memoryview(source))
    assert target == source
