"""Who wins, per workload, load and metric, and when nobody can say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tercet.compare.cell import Cell
from tercet.compare.metrics import GOODPUT, Metric
from tercet.compare.statistics import PairedRatio, holm, paired_logs, paired_ratio
from tercet.results.verdict import BEATEN, DROPPED, TIE, UNDECIDED, Margin, Verdict

SURE = 0.05
"""The chance of naming a wrong winner that is accepted, for all primary metrics and pairs of a cell together."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Contest:
    """One metric of a cell: each architecture's figures, block by block, and the ratio of every pair (first, second).

    Ratios above one say that the first is worse. Empty when `obstacle` says why nothing can be said.
    """

    metric: Metric
    figures: Mapping[str, Sequence[float]]
    ratios: Mapping[Pair, PairedRatio]
    obstacle: str

    @property
    def blocks(self) -> int:
        """How many blocks it rests on."""
        return len(next(iter(self.figures.values())))


@dataclass(frozen=True, slots=True)
class Contests:
    """All metrics of a cell. `p_values` are those of the primary metrics, as Holm adjusts them, by metric and pair;
    `dropped` answered fewer requests beyond chance."""

    all: tuple[Contest, ...]
    p_values: Mapping[tuple[str, Pair], float]
    dropped: tuple[str, ...]

    def p(self, contest: Contest, pair: Pair) -> float:
        """Return the p-value that decides about a pair: its own, where the metric is not a primary one."""
        return self.p_values.get((contest.metric.name, pair), contest.ratios[pair].p)


def contests(cell: Cell, primary: Sequence[str]) -> Contests:
    """Return every metric's ratios, and the p-values that decide.

    Holm's adjustment spans the pairs of architectures in all primary metrics, and in no other: a winner is named only
    there. Another metric's verdict says who is ahead, by p-values of its own. Who is behind for having answered fewer
    requests makes somebody else a winner, too: these p-values are adjusted with them.
    """
    every = tuple(_contest(cell, metric) for metric in cell.metrics)
    declared = [(contest, pair) for contest in every if contest.metric.name in primary for pair in contest.ratios]
    fewer = _fewer(cell)
    adjusted = holm([*(contest.ratios[pair].p for contest, pair in declared), *fewer.values()])
    p_values = {(contest.metric.name, pair): p for (contest, pair), p in zip(declared, adjusted, strict=False)}
    sure = zip(fewer, adjusted[len(declared) :], strict=True)
    return Contests(every, p_values, tuple(label for label, p in sure if p < SURE))


def judge(cell: Cell, *, primary: Sequence[str], tie_margin: float) -> tuple[Verdict, ...]:
    """Return the verdict of every metric of a cell."""
    found = contests(cell, primary)
    return tuple(_verdict(cell, contest, found, contest.metric.name in primary, tie_margin) for contest in found.all)


def _fewer(cell: Cell) -> dict[str, float]:
    """Return of those that answered fewer requests than they may the p-value of that: a few failures that hit one
    rather than another are chance, as a slow run is. Empty below three blocks."""
    most = cell.answered(max(cell.labels, key=lambda label: sum(cell.answered(label))))
    found = {}
    for label in cell.short:
        lost = paired_logs([best - share for best, share in zip(most, cell.answered(label), strict=True)])
        if lost is not None:
            found[label] = lost.p
    return found


def _contest(cell: Cell, metric: Metric) -> Contest:
    by_block = cell.figures(metric)
    figures = {label: [block[label] for block in by_block.values()] for label in cell.labels}
    ratios: dict[Pair, PairedRatio] = {}
    nobody = metric.name == GOODPUT and not by_block and cell.blocks
    obstacle = "no answer kept the limits" if nobody else cell.obstacle(len(by_block))
    for first, second in combinations(cell.labels, 2) if not obstacle else ():
        worse, better = (first, second) if metric.lower_is_better else (second, first)
        ratio = paired_ratio(figures[worse], figures[better])
        assert ratio is not None  # the obstacle would have said that there are too few
        ratios[first, second] = ratio
    return Contest(metric, figures, ratios, obstacle)


def _verdict(cell: Cell, contest: Contest, among: Contests, primary: bool, tie_margin: float) -> Verdict:
    metric = contest.metric
    values = {label: float(np.mean(found)) for label, found in contest.figures.items() if found}
    leaders: tuple[str, ...] = ()
    margins: tuple[Margin, ...] = ()
    if not contest.obstacle:
        best = _best(cell, contest)
        margins = tuple(
            _margin(contest, label, best, among, tie_margin, short=label in cell.short)
            for label in cell.labels
            if label != best
        )
        behind = {margin.architecture for margin in margins if margin.outcome in (BEATEN, DROPPED)}
        leaders = tuple(label for label in cell.labels if label not in behind)
    return Verdict(
        cell.workload,
        cell.load_kind,
        cell.load,
        metric.name,
        metric.label,
        metric.unit,
        metric.lower_is_better,
        primary,
        values,
        leaders,
        margins,
        cell.basis(contest.blocks) + _perhaps([label for label in cell.short if label not in among.dropped]),
        contest.obstacle,
    )


def _perhaps(short: Sequence[str]) -> str:
    return f"; {' and '.join(short)} answered fewer requests, perhaps by chance" if short else ""


def _best(cell: Cell, contest: Contest) -> str:
    """Return the architecture with the best geometric mean of those that may win."""
    sign = 1.0 if contest.metric.lower_is_better else -1.0
    fit = [label for label in cell.labels if label not in cell.short]
    return min(fit, key=lambda label: sign * float(np.mean(np.log(contest.figures[label]))))


def _margin(contest: Contest, label: str, best: str, among: Contests, tie_margin: float, *, short: bool) -> Margin:
    """Return how far `label` is behind `best`: beaten beyond chance and margin, tied within it, or undecided.

    Who may have answered fewer requests (`short`) is not tied: it can't win, and may be behind for that.
    """
    pair = (label, best) if (label, best) in contest.ratios else (best, label)
    found = contest.ratios[pair]
    mean, half = (found.mean if pair == (label, best) else -found.mean), found.half
    p = among.p(contest, pair)
    limit = math.log1p(tie_margin)
    if label in among.dropped:
        outcome = DROPPED
    elif p < SURE and mean >= limit:
        outcome = BEATEN
    elif not short and max(abs(mean - half), abs(mean + half)) <= limit:
        outcome = TIE
    else:
        outcome = UNDECIDED
    return Margin(label, math.expm1(mean), math.expm1(mean - half), math.expm1(mean + half), p, outcome)
