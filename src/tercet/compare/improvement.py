"""What ppd gains over pd and over replication: shares of time saved, averaged over the loads of a workload."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from tercet.compare.cell import Cell
from tercet.compare.metrics import LATER, Metric
from tercet.compare.statistics import log_ratios
from tercet.core.stage import Mode
from tercet.results.curve import Improvement
from tercet.results.document import ArchitectureRecord
from tercet.results.student import mean_interval

SHOWN = (LATER, "e2e")
PAIRS = ((Mode.PPD, Mode.PD), (Mode.PPD, Mode.REPLICATED))


def improvements(cells: Sequence[Cell], architectures: Sequence[ArchitectureRecord]) -> tuple[Improvement, ...]:
    """Return by how much every ppd betters every pd and every replicated architecture, per workload.

    1 - ratio at each load, averaged over the loads within each block; the interval is over the blocks. Only blocks that
    count at every load take part; those loads at which no block counts are left out.
    """
    found = []
    for better, base in PAIRS:
        for first in (record.label for record in architectures if record.mode == better):
            for second in (record.label for record in architectures if record.mode == base):
                for _, group in groupby(cells, key=lambda cell: (cell.workload, cell.load_kind)):
                    row = [cell for cell in group if {first, second} <= set(cell.labels)]
                    metrics = {m.name: m for cell in row for m in cell.metrics if m.name in SHOWN}
                    found += [_improvement(row, metric, first, second) for metric in metrics.values()]
    return tuple(improvement for improvement in found if improvement is not None)


def _improvement(row: Sequence[Cell], metric: Metric, first: str, second: str) -> Improvement | None:
    by_load: list[dict[int, float]] = []
    for cell in row:
        figures = cell.figures(metric)
        logs = log_ratios([f[first] for f in figures.values()], [f[second] for f in figures.values()])
        if logs:
            by_load.append({block: -math.expm1(log) for block, log in zip(figures, logs, strict=True)})
    common = sorted(set.intersection(*(set(shares) for shares in by_load))) if by_load else []
    if not common:
        return None
    mean, low, high = mean_interval([float(np.mean([shares[block] for shares in by_load])) for block in common])
    levels = [float(np.mean([shares[block] for block in common])) for shares in by_load]
    cell = row[0]
    return Improvement(
        cell.workload,
        cell.load_kind,
        metric.name,
        metric.label,
        first,
        second,
        mean,
        low,
        high,
        min(levels),
        max(levels),
        len(by_load),
        len(common),
    )
