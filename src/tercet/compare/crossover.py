"""Where one architecture takes over from another: their log-ratio over the loads, its interval inverted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise

import numpy as np

from tercet.compare.cell import Cell
from tercet.compare.metrics import Metric
from tercet.compare.statistics import log_ratios, paired_logs
from tercet.results.curve import RatioCurve, RatioPoint, Region
from tercet.results.student import t_975

REACH = 4.0
"""A crossing that the trend of the outermost loads would bring within this factor beyond them is worth telling."""


@dataclass(frozen=True, slots=True)
class LogRatio:
    """One load: the log-ratio of every block. Negative where the first is smaller."""

    load: float
    blocks: dict[int, float]


def curves(cells: Sequence[Cell], tie_margin: float) -> tuple[RatioCurve, ...]:
    """Return the curve of every pair of architectures, workload and metric, over the loads at which both ran.

    A pair is (earlier, later) in the order of the labels. Loads with fewer than three blocks have no point; a pair
    without points has no curve.
    """
    found = []
    for _, group in groupby(cells, key=lambda cell: (cell.workload, cell.load_kind)):
        row = list(group)
        labels = tuple(dict.fromkeys(label for cell in row for label in cell.labels))
        for metric in row[0].metrics:
            for first, second in combinations(labels, 2):
                ratios = list(_log_ratios(row, metric, first, second))
                if ratios:
                    found.append(_curve(row[0], metric, first, second, ratios, tie_margin))
    return tuple(found)


def _log_ratios(row: Sequence[Cell], metric: Metric, first: str, second: str) -> Iterator[LogRatio]:
    for cell in row:
        if first not in cell.labels or second not in cell.labels or {first, second} & set(cell.short):
            continue
        figures = cell.figures(metric)
        if not cell.obstacle(len(figures)):
            logs = log_ratios([f[first] for f in figures.values()], [f[second] for f in figures.values()])
            yield LogRatio(cell.load, dict(zip(figures, logs, strict=True)))


def _curve(
    cell: Cell, metric: Metric, first: str, second: str, ratios: Sequence[LogRatio], tie_margin: float
) -> RatioCurve:
    points = []
    for each in ratios:
        found = paired_logs(list(each.blocks.values()))
        assert found is not None  # the cell's obstacle would have said that there are too few blocks
        points.append(RatioPoint(each.load, found.ratio, found.low, found.high, found.count))
    # Whoever is smaller is better, or the other one.
    names = (first, second) if metric.lower_is_better else (second, first)
    regions = invert(ratios, names, math.log1p(tie_margin))
    outcome, sentence = conclude(regions, ratios)
    return RatioCurve(
        cell.workload,
        cell.load_kind,
        metric.name,
        metric.label,
        metric.lower_is_better,
        first,
        second,
        tuple(points),
        regions,
        outcome,
        sentence,
    )


def invert(ratios: Sequence[LogRatio], names: tuple[str, str], limit: float) -> tuple[Region, ...]:
    """Return where names[0] (log-ratio below zero) and names[1] (above) are better, over the whole range of loads.

    Between two loads each block's log-ratio is interpolated over the load's logarithm. One is better where the 95%
    interval of the blocks' mean excludes zero and the mean is at least `limit` from it. With a single load the only
    region is that load.
    """
    if len(ratios) == 1:
        return (Region(ratios[0].load, ratios[0].load, _better([ratios[0]] * 2, 0.0, names, limit)),)
    regions: list[Region] = []
    for segment in pairwise(ratios):
        bounds = [0.0, *_changes(segment, limit), 1.0]
        for start, end in pairwise(bounds):
            better = _better(segment, (start + end) / 2, names, limit)
            low, high = (_load(segment, t) for t in (start, end))
            if regions and regions[-1].better == better:
                low = regions.pop().start
            regions.append(Region(low, high, better))
    return tuple(regions)


def _lines(segment: Sequence[LogRatio]) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks' log-ratios at both ends of a segment, those that have both."""
    both = [number for number in segment[0].blocks if number in segment[1].blocks]
    return tuple(np.array([end.blocks[number] for number in both]) for end in segment)  # type: ignore[return-value]


def _better(segment: Sequence[LogRatio], t: float, names: tuple[str, str], limit: float) -> str | None:
    start, end = _lines(segment)
    found = paired_logs(list((1 - t) * start + t * end))
    if found is None or abs(found.mean) < limit or abs(found.mean) <= found.half:
        return None
    return names[0] if found.mean < 0 else names[1]


def _changes(segment: Sequence[LogRatio], limit: float) -> list[float]:
    """Return the places within a segment (0 to 1) at which the answer may change.

    Mean and variance of the interpolated blocks are a line m(t) and a parabola v(t): the interval's end is at zero
    where m(t)^2 = c^2 v(t), and the mean at the margin where m(t) = +-limit.
    """
    start, end = _lines(segment)
    count = len(start)
    if count < 2:
        return []
    slope = end - start
    m0, m1 = float(np.mean(start)), float(np.mean(slope))
    c2 = t_975(count - 1) ** 2 / count
    v0, v1 = float(np.var(start, ddof=1)), float(np.var(slope, ddof=1))
    cross = float(np.cov(start, slope, ddof=1)[0, 1])
    quadratic = np.roots([m1 * m1 - c2 * v1, 2 * (m0 * m1 - c2 * cross), m0 * m0 - c2 * v0])
    found = [float(root.real) for root in quadratic if abs(root.imag) < 1e-9]
    if m1:
        found += [(level - m0) / m1 for level in (-limit, limit)]
    return sorted(t for t in found if 0.0 < t < 1.0)


def _load(segment: Sequence[LogRatio], t: float) -> float:
    low, high = segment[0].load, segment[1].load
    return low if t == 0.0 else high if t == 1.0 else low * (high / low) ** t


def conclude(regions: Sequence[Region], ratios: Sequence[LogRatio]) -> tuple[str, str]:
    """Return the outcome of a curve and its sentence."""
    low, high = regions[0].start, regions[-1].end
    decided = [region for region in regions if region.better is not None]
    winners = [name for name, _ in groupby(region.better for region in decided)]
    if not decided:
        return "undecided", f"undecided {_span(low, high)}"
    if len(winners) == 2:
        before = max(region.end for region in decided if region.better == winners[0])
        after = min(region.start for region in decided if region.better == winners[1])
        return "crossover", (
            f"{winners[0]} better up to {_figure(before)}, {winners[1]} better from {_figure(after)}, undecided between"
        )
    if len(winners) > 2:
        parts = [f"{region.better} better {_span(region.start, region.end)}" for region in decided]
        return "crossover", f"{', '.join(parts)}, undecided between"
    if len(regions) == 1:
        text = f"none in this range: {winners[0]} better {_span(low, high)}"
    else:
        spans = " and ".join(_span(region.start, region.end) for region in decided)
        text = f"none in this range: {winners[0]} better {spans}, undecided elsewhere"
    beyond = _beyond(ratios)
    if beyond is not None:
        return "beyond", f"{text}; the trend leads to one beyond the grid, near {_figure(beyond)}"
    return "none", text


def _beyond(ratios: Sequence[LogRatio]) -> float | None:
    """Return the load, beyond those measured but within REACH of them, at which the outermost trend would be a tie."""
    if len(ratios) < 2:
        return None
    for near, far in ((ratios[-1], ratios[-2]), (ratios[0], ratios[1])):
        here, there = (float(np.mean(list(each.blocks.values()))) for each in (near, far))
        if here * (there - here) <= 0:
            continue  # it leads away from a tie, or has passed one already
        steps = here / (there - here)
        exponent = math.log(near.load / far.load) * steps
        if abs(exponent) <= math.log(REACH):
            return near.load * math.exp(exponent)
    return None


def _span(start: float, end: float) -> str:
    return f"at {_figure(start)}" if start == end else f"from {_figure(start)} to {_figure(end)}"


def _figure(load: float) -> str:
    return f"{load:.3g}"
