"""Interpolation of one sampled model: StepParts that answer from tables, in plain Python because calls are scalar."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tercet.latency import grid_axes as axes

Array = npt.NDArray[np.float64]
DENSE_TOKENS = 8192
"""Up to here the table of computed tokens is spread out, so that a look-up is one index."""


class GridParts:
    """StepParts from `tables`: tokens [T], logits [S], decode [B, C], prompt [B, N, P], on the axes of `grid_axes`.

    Linear between the points, and beyond the last by the slope of the last two. Rows for a batch that was asked for
    once are kept.
    """

    def __init__(self, tables: Mapping[str, Array]) -> None:
        self._token_points = [float(each) for each in axes.TOKENS]
        self._token_values = tables["tokens"].tolist()
        dense = np.interp(np.arange(DENSE_TOKENS + 1), axes.TOKENS, tables["tokens"])
        self._dense_tokens: list[float] = dense.tolist()
        last = axes.SEQUENCES[-1]
        self._dense_logits: list[float] = np.interp(np.arange(last + 1), axes.SEQUENCES, tables["logits"]).tolist()
        self._decode, self._prompt = tables["decode"], tables["prompt"]
        self._contexts = [float(each) for each in axes.DECODE_CONTEXT]
        self._news = [float(each) for each in axes.PROMPT_TOKENS]
        self._prefixes = [float(each) for each in axes.PROMPT_PREFIX]
        self._decode_rows: dict[int, list[float]] = {}
        self._prompt_planes: dict[int, list[list[float]]] = {}

    def tokens(self, count: int) -> float:
        """See StepParts."""
        if count <= DENSE_TOKENS:
            return self._dense_tokens[count]
        return _at(self._token_points, self._token_values, count)

    def logits(self, sequences: int) -> float:
        """See StepParts."""
        values = self._dense_logits
        last = len(values) - 1
        return values[sequences] if sequences <= last else values[last] * sequences / last

    def prompt_attention(self, batch: int, tokens: float, prefix: float) -> float:
        """See StepParts."""
        plane = self._prompt_planes.get(batch)
        if plane is None:
            plane = self._prompt_planes[batch] = _between(axes.PROMPT_BATCH, self._prompt, batch).tolist()
        points = self._news
        i = min(max(bisect_right(points, tokens) - 1, 0), len(points) - 2)
        share = max((tokens - points[i]) / (points[i + 1] - points[i]), 0.0)
        low, high = plane[i], plane[i + 1]
        points = self._prefixes
        j = min(bisect_right(points, prefix) - 1, len(points) - 2)
        along = (prefix - points[j]) / (points[j + 1] - points[j])
        first = low[j] + (low[j + 1] - low[j]) * along
        return first + (high[j] + (high[j + 1] - high[j]) * along - first) * share

    def decode_attention(self, batch: int, context: float) -> float:
        """See StepParts."""
        row = self._decode_rows.get(batch)
        if row is None:
            row = self._decode_row(batch)
        return _at(self._contexts, row, context)

    def decode_attention_run(self, batch: int, context: float, steps: int) -> float:
        """See StepParts. Exact: an arithmetic series on each piece between two points."""
        row = self._decode_rows.get(batch)
        if row is None:
            row = self._decode_row(batch)
        points, last = self._contexts, len(self._contexts) - 2
        total, left = 0.0, steps
        while left and context < points[0]:
            total, context, left = total + row[0], context + 1, left - 1
        while left:
            i = min(bisect_right(points, context) - 1, last)
            slope = (row[i + 1] - row[i]) / (points[i + 1] - points[i])
            inside = left if i == last else min(left, max(-int(-(points[i + 1] - context) // 1), 1))
            first = row[i] + slope * (context - points[i])
            total += inside * (first + slope * (inside - 1) / 2)
            context += inside
            left -= inside
        return total

    def _decode_row(self, batch: int) -> list[float]:
        row: list[float] = _between(axes.DECODE_BATCH, self._decode, batch).tolist()
        self._decode_rows[batch] = row
        return row


def _at(points: list[float], values: list[float], where: float) -> float:
    i = min(max(bisect_right(points, where) - 1, 0), len(points) - 2)
    low = values[i]
    return low + (values[i + 1] - low) * max((where - points[i]) / (points[i + 1] - points[i]), 0.0)


def _between(points: tuple[int, ...], tables: Array, where: int) -> Array:
    i = min(max(bisect_right(points, where) - 1, 0), len(points) - 2)
    share = (where - points[i]) / (points[i + 1] - points[i])
    row: Array = tables[i] * (1 - share) + tables[i + 1] * share
    return row
