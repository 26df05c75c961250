"""When each architecture is useful and when it is not, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tercet.report.evidence import Cell, Evidence, Group
from tercet.report.metric import TTFT_FIRST, TTFT_LATER, TTFT_P50
from tercet.report.spans import Span, spans
from tercet.results.document import Results
from tercet.results.verdict import BEATEN, DROPPED, Margin, Verdict

ALSO = ("ttft_later", "tpot")
"""Metrics that say something of an architecture even where no winner may be named for them."""

DROPPED_BY_ALL = "the others with fewer requests answered"

IDLE = 0.15
"""A stage that computes for less than this share of the time at the highest load is called nearly idle."""


@dataclass(frozen=True, slots=True)
class Usefulness:
    """One architecture: where it leads, where it is behind, and how it reacts to load, turns and prompts."""

    architecture: str
    useful: tuple[str, ...]
    not_useful: tuple[str, ...]
    sensitivity: tuple[str, ...]


def usefulness(results: Results, evidence: Evidence) -> tuple[Usefulness, ...]:
    """Return what can be said of every architecture: one line a metric, one a kind of reaction."""
    several = len(evidence.groups) > 1
    judged = [v for v in results.verdicts if v.leaders and (v.primary or v.metric in ALSO)]
    by_metric = {  # with the loads at which nothing could be judged: a range must not reach over them
        metric: spans([verdict for verdict in results.verdicts if verdict.metric == metric])
        for metric in dict.fromkeys(verdict.metric for verdict in judged)
    }
    return tuple(
        Usefulness(
            label,
            useful=tuple(_lines(_wins(label, found, several) for found in by_metric.values())),
            not_useful=tuple(_lines(_losses(label, found, several) for found in by_metric.values())),
            sensitivity=tuple(_sensitivity(label, evidence, several)),
        )
        for label in evidence.labels
    )


def _lines(found: Iterable[tuple[str, list[str]]]) -> list[str]:
    return [f"{metric}: {'; '.join(parts)}" for metric, parts in found if parts]


def _wins(label: str, found: Sequence[Span], several: bool) -> tuple[str, list[str]]:
    parts = []
    for span in found:
        if span.outcome.leaders != (label,):
            continue
        behind = [next_one for verdict in span.verdicts if (next_one := _next(verdict)) is not None]
        rivals = ", ".join(dict.fromkeys(margin.architecture for margin in behind))
        rest = f"{rivals} {_percent_range([m.relative for m in behind])} behind" if behind else DROPPED_BY_ALL
        parts.append(f"{_where(span, several)}, {rest}")
    return found[0].verdicts[0].label, parts


def _next(verdict: Verdict) -> Margin | None:
    """Return the nearest rival of those that answered as much: who dropped work may even be faster."""
    fit = [margin for margin in verdict.margins if margin.outcome != DROPPED]
    return min(fit, key=lambda margin: margin.relative, default=None)


def _losses(label: str, found: Sequence[Span], several: bool) -> tuple[str, list[str]]:
    parts = []
    for span in found:
        beaten = tuple(v for v in span.verdicts if (m := _margin(v, label)) and m.outcome in (BEATEN, DROPPED))
        if not beaten:
            continue
        margins = [margin for verdict in beaten if (margin := _margin(verdict, label)) is not None]
        where = _where(Span(span.group, span.outcome, beaten, span.loads), several)
        slower = [margin.relative for margin in margins if margin.outcome != DROPPED]
        amount = f"{_percent_range(slower)} " if slower else ""
        dropped = ", with fewer requests answered" if len(slower) < len(margins) else ""
        parts.append(f"{where} {amount}behind {', '.join(span.outcome.leaders)}{dropped}")
    return found[0].verdicts[0].label, parts


def _margin(verdict: Verdict, label: str) -> Margin | None:
    return next((margin for margin in verdict.margins if margin.architecture == label), None)


def _sensitivity(label: str, evidence: Evidence, several: bool) -> list[str]:
    """Return how the first token's time grows with load and with turns, how busy the stages are, and prompts' share."""
    growth, turns, busy = [], [], []
    for group in evidence.groups:
        valid = [cell for cell in evidence.of(group) if not cell.invalid]
        mine = [cell for cell in valid if cell.architecture == label]
        where = f"{group.workload} " if several else ""
        if text := _growth_text(label, valid, evidence.labels, evidence.tie_margin):
            growth.append(f"{where}{text}")
        pairs = [(a.value, b.value) for c in mine if (a := c.get(TTFT_FIRST)) and (b := c.get(TTFT_LATER))]
        pairs = [(first, later) for first, later in pairs if first > 0]
        if pairs:
            turns.append(f"{where}{_percent_range([later / first for first, later in pairs])}")
        if mine and mine[-1].busy:
            busy.append(f"{where}{_busy_text(mine[-1])}")
    found = [("median TTFT from the lowest load to the highest", growth), ("later turns' TTFT, of turn 1's", turns)]
    found.append(("busy at the highest load", busy))
    lines = [f"{name}: {'; '.join(parts)}" for name, parts in found if parts]
    return [*lines, *_prompt_length(label, evidence)]


@dataclass(frozen=True, slots=True)
class _Growth:
    """The factor by which the median TTFT grows to the load `top`: its logarithm, and half the 95% interval of that,
    which the two ends' own make up; None with too few runs."""

    log: float
    half: float | None
    top: float

    def less_than(self, other: _Growth, margin: float) -> bool:
        """Return whether it is less beyond chance and by more than a tie."""
        if self.half is None or other.half is None:
            return False
        return other.log - self.log > max(math.hypot(self.half, other.half), math.log1p(margin))


def _growth_text(label: str, valid: Sequence[Cell], labels: Sequence[str], margin: float) -> str:
    growths = {name: _growth([cell for cell in valid if cell.architecture == name]) for name in labels}
    mine = growths[label]
    if mine is None:
        return ""
    rivals = [each for name, each in growths.items() if name != label and each is not None and each.top == mine.top]
    least = rivals and all(mine.less_than(rival, margin) for rival in rivals)
    most = rivals and all(rival.less_than(mine, margin) for rival in rivals)
    return f"×{math.exp(mine.log):.1f}{' (least of all)' if least else ' (most of all)' if most else ''}"


def _growth(cells: Sequence[Cell]) -> _Growth | None:
    known = [
        (cell.place.load, found) for cell in cells if (found := cell.get(TTFT_P50)) is not None and found.value > 0
    ]
    if len(known) < 2:
        return None
    (_, low), (top, high) = known[0], known[-1]
    ends = [math.log(end.high / end.low) / 2 for end in (low, high) if end.low and end.high]
    return _Growth(math.log(high.value / low.value), math.hypot(*ends) if len(ends) == 2 else None, top)


def _busy_text(cell: Cell) -> str:
    shares = ", ".join(f"{stage} {share:.0%}" for stage, share in cell.busy.items())
    idle = [stage for stage, share in cell.busy.items() if share < IDLE]
    return f"{shares} ({', '.join(idle)} nearly idle)" if idle and len(cell.busy) > 1 else shares


def _prompt_length(label: str, evidence: Evidence) -> list[str]:
    """Compare the workloads with the shortest and the longest time to a first token, each at its lowest load."""
    quiet: dict[Group, float] = {}
    for group in evidence.groups:
        mine = [cell for cell in evidence.of(group) if cell.architecture == label and not cell.invalid]
        if mine and (found := mine[0].get(TTFT_P50)) is not None and found.value > 0:
            quiet[group] = found.value
    if len(quiet) < 2:
        return []
    low, high = min(quiet, key=quiet.__getitem__), max(quiet, key=quiet.__getitem__)
    return [f"at the lowest load {high.workload} takes {quiet[high] / quiet[low]:.1f} times the TTFT of {low.workload}"]


def _where(span: Span, several: bool) -> str:
    return f"{span.group.workload} {span.where}" if several else span.where


def _percent_range(shares: Sequence[float]) -> str:
    low, high = (f"{share * 100:.0f}" for share in (min(shares), max(shares)))
    return f"{high}%" if low == high else f"{low} to {high}%"
