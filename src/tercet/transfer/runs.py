"""From pairs of block ids to as few long copies as possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.core.errors import TransferError

HOLD_GIL_BELOW = 1 << 20
"""Copies below this many bytes (some 80 us) keep the interpreter's lock: waiting to get it back costs more."""
COPY_STEP = 16 << 20
"""Longer copies are cut here, so that deadlines are looked at every millisecond or two."""


@dataclass(frozen=True, slots=True)
class Run:
    """`nbytes` bytes at offset `source` of the remote pool go to offset `target` of the local one."""

    source: int
    target: int
    nbytes: int


def coalesce(remote: Sequence[int], local: Sequence[int], block_bytes: int) -> list[Run]:
    """Return the copies that move remote[i] to local[i], with blocks contiguous on both sides joined."""
    runs: list[Run] = []
    start = end = shift = -1
    for source, target in sorted(zip(remote, local, strict=True)):
        if source == end and target - source == shift:
            end += 1
            continue
        if start >= 0:
            runs.append(_run(start, end, shift, block_bytes))
        start, end, shift = source, source + 1, target - source
    if start >= 0:
        runs.append(_run(start, end, shift, block_bytes))
    return runs


def _run(start: int, end: int, shift: int, block_bytes: int) -> Run:
    return Run(start * block_bytes, (start + shift) * block_bytes, (end - start) * block_bytes)


def cut(runs: Iterable[Run], step: int) -> Iterator[Run]:
    """Yield the same bytes in runs of at most `step` bytes."""
    for run in runs:
        if run.nbytes <= step:
            yield run
            continue
        for offset in range(0, run.nbytes, step):
            yield Run(run.source + offset, run.target + offset, min(step, run.nbytes - offset))


def pieces(runs: Iterable[Run], max_bytes: int, max_runs: int) -> Iterator[list[Run]]:
    """Yield the same bytes in groups of at most `max_bytes` bytes and `max_runs` runs: one message each."""
    piece: list[Run] = []
    room = max_bytes
    for run in runs:
        source, target, left = run.source, run.target, run.nbytes
        while left:
            take = min(left, room)
            piece.append(Run(source, target, take))
            source, target, left, room = source + take, target + take, left - take, room - take
            if not room or len(piece) == max_runs:
                yield piece
                piece, room = [], max_bytes
    if piece:
        yield piece


def check_blocks(ids: Sequence[int], num_blocks: int, whose: str) -> None:
    """Raise TransferError unless all ids are different blocks of a pool of `num_blocks`."""
    if ids and not (min(ids) >= 0 and max(ids) < num_blocks):
        raise TransferError(f"{whose} pool has blocks 0 to {num_blocks - 1}; asked for {min(ids)} to {max(ids)}")
    if len(set(ids)) != len(ids):
        raise TransferError(f"a block of {whose} pool is named twice")


def copy(target: memoryview, source: memoryview) -> None:
    """Copy bytes between two buffers of the same length; long copies let other threads run."""
    if target.nbytes < HOLD_GIL_BELOW:
        target[:] = source
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
