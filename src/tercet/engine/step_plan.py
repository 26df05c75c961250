"""A batch laid out for the tensors: which row is which token, which pool blocks each chunk reads."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import torch

from tercet.engine.encoder import EmbeddingError
from tercet.engine.sequence import Batch, Chunk

GROUP_TOKENS = 4096  # padded context tokens gathered at once in decode: bounds the staging buffer
SPLIT_TOKENS = 256  # padding that costs as much as the fixed cost of one more decode group


class RowSource(Protocol):
    """Where pictures' rows are kept. Implementations: StoredRows (an engine's embedding pool), a dictionary."""

    def get(self, key: str, /) -> torch.Tensor | None:
        """Return a picture's rows [tokens, hidden], or None when they are not here."""
        ...


_NO_ROWS: RowSource = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows [first, last) are one token each of different sequences, whose contexts are read together.

    `tables` [sequences, width] block numbers, padded with block 0; `lengths` [sequences] tokens of context, the row's
    own included.
    """

    first: int
    last: int
    tables: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Rows [first, last) are consecutive tokens of one sequence, the first at position `start`; `table` [1, width]."""

    first: int
    last: int
    start: int
    table: torch.Tensor
    samples: bool


@dataclass(frozen=True, slots=True)
class Override:
    """Rows [first, first + len(rows)) enter the model as `rows` [n, hidden], a picture's, not as their tokens' own."""

    first: int
    rows: torch.Tensor


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Rows are ordered decode first (long contexts first), then prefill.

    `ids`, `positions` [tokens]; `slots` [tokens]: block number * block_size + offset, where keys and values go;
    `sampled` [samples] the rows whose logits are wanted, those of the chunks `sampled_chunks` (indices into the batch).
    `overrides` are the pictures' rows among them.
    `memo` holds what layers share and make on demand: masks, gather indices.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    decode: tuple[DecodeGroup, ...]
    prefill: tuple[PrefillChunk, ...]
    sampled: torch.Tensor
    sampled_chunks: tuple[int, ...]
    overrides: tuple[Override, ...] = ()
    memo: dict[tuple[str, int, int, int], torch.Tensor] = field(default_factory=dict)


def make_plan(
    batch: Batch,
    block_size: int,
    device: torch.device,
    *,
    grouped: bool,
    embeddings: RowSource = _NO_ROWS,
) -> StepPlan:
    """Lay out a batch. Every chunk's sequence must own blocks for all of its positions.

    `embeddings` has the rows of the chunks' pictures by key; raises EmbeddingError where one is missing.
    `grouped` splits decode rows into groups of similar length, for attention that pays for padding.
    """
    chunks = batch.chunks
    singles = sorted((i for i, c in enumerate(chunks) if c.length == 1), key=lambda i: -chunks[i].start)
    order = singles + [i for i, c in enumerate(chunks) if c.length > 1]
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    sampled: list[int] = []
    prefill: list[PrefillChunk] = []
    overrides: list[Override] = []
    for i in order:
        chunk = chunks[i]
        sequence, start, end = chunk.sequence, chunk.start, chunk.start + chunk.length
        first = len(ids)
        ids += sequence.tokens[start:end]
        positions += range(start, end)
        slots += [sequence.blocks[p // block_size] * block_size + p % block_size for p in range(start, end)]
        if sequence.images:
            overrides += _overrides(chunk, first, embeddings, device)
        if chunk.samples:
            sampled.append(len(ids) - 1)
        if chunk.length > 1:
            table = torch.tensor([sequence.blocks[: -(-end // block_size)]], device=device)
            prefill.append(PrefillChunk(first, len(ids), start, table, chunk.samples))
    rows = [chunks[i] for i in singles]
    return StepPlan(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        decode=tuple(
            _decode_group(rows, first, last, block_size, device)
            for first, last in (_similar(rows, block_size) if grouped else _all(rows))
        ),
        prefill=tuple(prefill),
        sampled=torch.tensor(sampled, device=device, dtype=torch.long),
        sampled_chunks=tuple(i for i in order if chunks[i].samples),
        overrides=tuple(overrides),
    )


def _overrides(chunk: Chunk, row: int, embeddings: RowSource, device: torch.device) -> Iterator[Override]:
    """Yield the parts of a chunk's pictures that it computes; its first token is the plan's row `row`."""
    start, end = chunk.start, chunk.start + chunk.length
    for image in chunk.sequence.images:
        first, last = max(start, image.start), min(end, image.end)
        if first >= last:
            continue
        rows = embeddings.get(image.key)
        if rows is None or len(rows) != image.length:
            found = "no embeddings" if rows is None else f"{len(rows)} rows"
            raise EmbeddingError(
                f"sequence {chunk.sequence.id!r} reads {image.length} rows of the picture {image.key!r} at position "
                f"{image.start} and finds {found}"
            )
        yield Override(row + first - start, rows[first - image.start : last - image.start].to(device))


def _decode_group(chunks: Seq[Chunk], first: int, last: int, size: int, device: torch.device) -> DecodeGroup:
    members = chunks[first:last]
    width = members[0].start // size + 1
    tables = [c.sequence.blocks[: c.start // size + 1] for c in members]
    padded = [table + [0] * (width - len(table)) for table in tables]
    lengths = torch.tensor([c.start + 1 for c in members], device=device)
    return DecodeGroup(first, last, torch.tensor(padded, device=device), lengths)


def _all(chunks: Seq[Chunk]) -> list[tuple[int, int]]:
    return [(0, len(chunks))] if chunks else []


def _similar(chunks: Seq[Chunk], size: int) -> list[tuple[int, int]]:
    """Split chunks, longest first, where a group's padding would cost more than another group."""
    widths = [chunk.start // size + 1 for chunk in chunks]
    bounds: list[tuple[int, int]] = []
    first = padding = 0
    for last in range(1, len(chunks) + 1):
        if last < len(chunks):
            padding += (widths[first] - widths[last]) * size
            if padding <= SPLIT_TOKENS and (last + 1 - first) * widths[first] * size <= GROUP_TOKENS:
                continue
        bounds.append((first, last))
        first, padding = last, 0
    return bounds
