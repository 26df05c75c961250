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
from tercet.results.student import t_975

SHOWN = (LATER, "e2e")
PAIRS = ((Mode.PPD, Mode.PD), (Mode.PPD, Mode.REPLICATED))


def improvements(cells: Sequence[Cell], architectures: Sequence[ArchitectureRecord]) -> tuple[Improvement, ...]:
    """Return by how much every ppd betters every pd and every replicated architecture, per workload.

    1 - ratio of every paired run, averaged at each load and then over the loads. Loads at which only one block counts
    take part where no load has more; those at which either answered fewer requests than it may (`Cell.short`) do not:
    what is left of dropped work is fast.
    """
    found = []
    for better, base in PAIRS:
        for first in (record.label for record in architectures if record.mode == better):
            for second in (record.label for record in architectures if record.mode == base):
                for _, group in groupby(cells, key=lambda cell: (cell.workload, cell.load_kind)):
                    pair = {first, second}
                    row = [cell for cell in group if pair <= set(cell.labels) and not pair & set(cell.short)]
                    metrics = {m.name: m for cell in row for m in cell.metrics if m.name in SHOWN}
                    found += [_improvement(row, metric, first, second) for metric in metrics.values()]
    return tuple(improvement for improvement in found if improvement is not None)


def _improvement(row: Sequence[Cell], metric: Metric, first: str, second: str) -> Improvement | None:
    by_load = []
    for cell in row:
        figures = cell.figures(metric).values()
        logs = log_ratios([f[first] for f in figures], [f[second] for f in figures])
        by_load.append([-math.expm1(log) for log in logs])
    most = max((len(shares) for shares in by_load), default=0)
    if not most:
        return None
    by_load = [shares for shares in by_load if len(shares) >= min(most, 2)]
    mean, half = stratified(by_load)
    levels = [float(np.mean(shares)) for shares in by_load]
    cell = row[0]
    return Improvement(
        cell.workload,
        cell.load_kind,
        metric.name,
        metric.label,
        first,
        second,
        mean,
        None if half is None else mean - half,
        None if half is None else mean + half,
        min(levels),
        max(levels),
        len(by_load),
        most,
    )


def stratified(by_load: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """Return the mean of the loads' means and half its 95% interval; None below two degrees of freedom.

    Runs at different loads are independent: the variances of the means add up, with Satterthwaite's degrees of freedom.
    """
    mean = float(np.mean([np.mean(shares) for shares in by_load]))
    if min(len(shares) for shares in by_load) < 2:
        return mean, None
    parts = [float(np.var(shares, ddof=1)) / len(shares) / len(by_load) ** 2 for shares in by_load]
    total = sum(parts)
    if total == 0.0:
        return mean, 0.0
    freedom = total**2 / sum(part**2 / (len(shares) - 1) for part, shares in zip(parts, by_load, strict=True))
    return mean, None if freedom < 2 else t_975(int(freedom)) * math.sqrt(total)
