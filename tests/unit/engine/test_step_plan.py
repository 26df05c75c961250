from __future__ import annotations

import torch

from tercet.engine.sequence import Batch, Chunk, Sequence
from tercet.engine.step_plan import GROUP_TOKENS, make_plan
from tests.unit.engine.model_lab import new_sequence

CPU = torch.device("cpu")


def sequence(length: int, first_block: int) -> Sequence:
    return new_sequence(range(100, 100 + length), range(first_block, first_block + -(-length // 4)))


def test_rows_are_decode_first_longest_first_then_prefill() -> None:
    prefill, short, long = sequence(10, 0), sequence(3, 10), sequence(9, 20)
    batch = Batch((Chunk(prefill, 2, 6, False), Chunk(short, 2, 1, True), Chunk(long, 8, 1, True)))
    plan = make_plan(batch, 4, CPU, grouped=False)
    assert plan.ids.tolist() == [108, 102, *range(102, 108)]
    assert plan.positions.tolist() == [8, 2, *range(2, 8)]
    assert plan.slots.tolist() == [22 * 4, 10 * 4 + 2, 2, 3, 4, 5, 6, 7]
    assert plan.sampled.tolist() == [0, 1] and plan.sampled_chunks == (2, 1)
    (group,) = plan.decode
    assert (group.first, group.last) == (0, 2)
    assert group.tables.tolist() == [[20, 21, 22], [10, 0, 0]] and group.lengths.tolist() == [9, 3]
    (chunk,) = plan.prefill
    assert (chunk.first, chunk.last, chunk.start, chunk.samples) == (2, 8, 2, False)
    assert chunk.table.tolist() == [[0, 1]]


def test_a_chunk_of_one_that_does_not_sample_is_a_row_without_logits() -> None:
    plan = make_plan(Batch((Chunk(sequence(10, 0), 4, 1, False),)), 4, CPU, grouped=False)
    assert plan.sampled.tolist() == [] and plan.sampled_chunks == ()
    assert len(plan.decode) == 1


def test_groups_keep_padding_and_memory_small() -> None:
    lengths = [4000, 3990, 500, 480, 470, 460, *[10] * 20]
    chunks = tuple(Chunk(sequence(n, 0), n - 1, 1, True) for n in lengths)
    groups = make_plan(Batch(chunks), 4, CPU, grouped=True).decode
    assert [(g.first, g.last) for g in groups] == [(0, 1), (1, 2), (2, 6), (6, 26)]
    assert all(g.tables.numel() * 4 <= GROUP_TOKENS for g in groups)
    assert len(make_plan(Batch(chunks), 4, CPU, grouped=False).decode) == 1


def test_one_sequence_longer_than_a_group_still_has_its_group() -> None:
    long = sequence(GROUP_TOKENS + 5, 0)
    (group,) = make_plan(Batch((Chunk(long, GROUP_TOKENS + 4, 1, True),)), 4, CPU, grouped=True).decode
    assert group.tables.shape[1] * 4 > GROUP_TOKENS
