"""Where one architecture takes over from another: their log-ratio over the loads, its interval inverted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise

from tercet.compare.cell import Cell
from tercet.compare.metrics import Metric
from tercet.compare.statistics import PairedRatio
from tercet.compare.verdict import SURE, Contests, contests
from tercet.results.curve import RatioCurve, RatioPoint, Region

REACH = 4.0
"""A crossing that the trend of the outermost loads would bring within this factor beyond them is worth telling."""


@dataclass(frozen=True, slots=True)
class LogRatio:
    """One load: the mean log-ratio and half the interval that decides. Negative where the first is smaller.

    That is the 95% interval, in a primary metric made wider until it leaves out zero just where the verdict names
    somebody: what is decided there must not be decided otherwise here.
    """

    load: float
    mean: float
    half: float


def curves(cells: Sequence[Cell], tie_margin: float, primary: Sequence[str]) -> tuple[RatioCurve, ...]:
    """Return the curve of every pair of architectures, workload and metric, over the loads at which both ran.

    A pair is (earlier, later) in the order of the labels. Loads with fewer than three blocks have no point; a pair
    without points has no curve.
    """
    found = []
    for _, group in groupby(cells, key=lambda cell: (cell.workload, cell.load_kind)):
        row = [(cell, contests(cell, primary)) for cell in group]
        labels = tuple(dict.fromkeys(label for cell, _ in row for label in cell.labels))
        for metric in row[0][0].metrics:
            for first, second in combinations(labels, 2):
                ratios = list(_ratios(row, metric, first, second))
                if ratios:
                    found.append(_curve(row[0][0], metric, first, second, ratios, tie_margin))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _At:
    """The ratio at one load, and the p-value below which the verdict there decides: where it is `SURE` adjusted."""

    load: float
    ratio: PairedRatio
    level: float


def _ratios(row: Sequence[tuple[Cell, Contests]], metric: Metric, first: str, second: str) -> Iterator[_At]:
    for cell, among in row:
        if {first, second} & set(cell.short):
            continue
        contest = next((each for each in among.all if each.metric.name == metric.name), None)
        ratio = contest.ratios.get((first, second)) if contest is not None else None
        if contest is not None and ratio is not None:
            p = among.p(contest, (first, second))
            level = SURE * ratio.p / p if p else SURE
            yield _At(cell.load, ratio if metric.lower_is_better else ratio.inverse, level)


def _curve(
    cell: Cell,
    metric: Metric,
    first: str,
    second: str,
    ratios: Sequence[_At],
    tie_margin: float,
) -> RatioCurve:
    points = [LogRatio(at.load, at.ratio.mean, at.ratio.half_at(at.level)) for at in ratios]
    # Whoever is smaller is better, or the other one.
    names = (first, second) if metric.lower_is_better else (second, first)
    regions = invert(points, names, math.log1p(tie_margin))
    outcome, sentence = conclude(regions, points)
    return RatioCurve(
        cell.workload,
        cell.load_kind,
        metric.name,
        metric.label,
        metric.lower_is_better,
        first,
        second,
        tuple(RatioPoint(at.load, at.ratio.ratio, at.ratio.low, at.ratio.high, at.ratio.count) for at in ratios),
        regions,
        outcome,
        sentence,
    )


def invert(points: Sequence[LogRatio], names: tuple[str, str], limit: float) -> tuple[Region, ...]:
    """Return where names[0] (log-ratio below zero) and names[1] (above) are better, over the whole range of loads.

    Between two loads mean and interval are interpolated over the load's logarithm. One is better where the interval
    excludes zero and the mean is at least `limit` from it. With a single load the only region is that load.
    """
    if len(points) == 1:
        return (Region(points[0].load, points[0].load, _better((points[0], points[0]), 0.0, names, limit)),)
    regions: list[Region] = []
    for segment in pairwise(points):
        bounds = [0.0, *_changes(segment, limit), 1.0]
        for start, end in pairwise(bounds):
            better = _better(segment, (start + end) / 2, names, limit)
            low, high = (_load(segment, t) for t in (start, end))
            if regions and regions[-1].better == better:
                low = regions.pop().start
            regions.append(Region(low, high, better))
    return tuple(regions)


Segment = tuple[LogRatio, LogRatio]


def _better(segment: Segment, t: float, names: tuple[str, str], limit: float) -> str | None:
    mean, half = (_between(segment, name, t) for name in ("mean", "half"))
    if abs(mean) < limit or abs(mean) <= half:
        return None
    return names[0] if mean < 0 else names[1]


def _between(segment: Segment, name: str, t: float) -> float:
    start, end = (getattr(point, name) for point in segment)
    return float((1 - t) * start + t * end)


def _changes(segment: Segment, limit: float) -> list[float]:
    """Return the places within a segment (0 to 1) at which the answer may change.

    Those are where an end of the interval is zero, and where the mean is at the margin: all of them are straight lines.
    """
    first, last = segment
    lines = [
        (first.mean - first.half, last.mean - last.half),
        (first.mean + first.half, last.mean + last.half),
        (first.mean - limit, last.mean - limit),
        (first.mean + limit, last.mean + limit),
    ]
    return sorted(start / (start - end) for start, end in lines if start * end < 0)


def _load(segment: Segment, t: float) -> float:
    low, high = segment[0].load, segment[1].load
    return low if t == 0.0 else high if t == 1.0 else low * (high / low) ** t


def conclude(regions: Sequence[Region], points: Sequence[LogRatio]) -> tuple[str, str]:
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
    beyond = _beyond(points)
    if beyond is not None:
        return "beyond", f"{text}; the trend leads to one beyond the grid, near {_figure(beyond)}"
    return "none", text


def _beyond(points: Sequence[LogRatio]) -> float | None:
    """Return the load, beyond those measured but within REACH of them, at which the outermost trend would be a tie.

    Two loads that may as well be equal make no trend.
    """
    if len(points) < 2:
        return None
    for near, far in ((points[-1], points[-2]), (points[0], points[1])):
        here, there = near.mean, far.mean
        if here * (there - here) <= 0:
            continue  # it leads away from a tie, or has passed one already
        if abs(there - here) <= math.hypot(near.half, far.half):
            continue
        steps = here / (there - here)
        exponent = math.log(near.load / far.load) * steps
        if abs(exponent) <= math.log(REACH):
            return near.load * math.exp(exponent)
    return None


def _span(start: float, end: float) -> str:
    return f"at {_figure(start)}" if start == end else f"from {_figure(start)} to {_figure(end)}"


def _figure(load: float) -> str:
    return f"{load:.3g}"
