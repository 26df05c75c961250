"""What to run at each level of traffic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tercet.report.estimate import Estimate
from tercet.report.evidence import Evidence, Group, complexity
from tercet.report.metric import REQUESTS, TOKENS, TTFT_P50
from tercet.report.place import Place
from tercet.report.spans import GOODPUT, THROUGHPUT, TTFT, listed, outcome, pick, short_reason
from tercet.results.document import Results
from tercet.results.verdict import FEWER_ANSWERS, Verdict

LEVELS = ("Light traffic", "Medium traffic", "Heavy traffic", "Very heavy traffic")
SINGLE = "Single request / interactive"
ORDER = ("Low", "Medium", "High", "-")
"""From the simplest to run to the most complex."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One level of traffic: the architecture to run and why; "-" where nothing can be said.

    Its figures are those of that architecture; `invalid` when they are no evidence.
    """

    level: str
    place: Place
    best: str
    why: str
    ttft_p50: Estimate | None
    requests_per_s: Estimate | None
    tokens_per_s: Estimate | None
    invalid: bool


def recommendations(results: Results, evidence: Evidence, group: Group) -> tuple[Recommendation, ...]:
    """Return a group's recommendations, by rising load.

    The winner of time to first token, or of goodput where that was declared primary; among equals who answered as many
    requests as any, then the leader in throughput, then what is simplest to run, then the faster one.
    """
    loads = evidence.loads(group)
    return tuple(
        _recommend(results, evidence, Place(group.workload, group.load_kind, load), level)
        for load, level in zip(loads, level_names(loads, group.load_kind), strict=True)
    )


def level_names(loads: Sequence[float], load_kind: str) -> list[str]:
    """Name rising loads: one at once is a single request, the others are spread from light to very heavy."""
    singles = [load for load in loads if load_kind == "concurrency" and load == 1]
    rest = len(loads) - len(singles)
    names = [LEVELS[min(len(LEVELS) - 1, i * len(LEVELS) // max(rest, 1))] for i in range(rest)]
    return [SINGLE] * len(singles) + (names if rest != 1 or singles else ["Measured load"])


def _recommend(results: Results, evidence: Evidence, place: Place, level: str) -> Recommendation:
    here = [verdict for verdict in results.verdicts if Place.of(verdict) == place]
    best, why = _choose(here, evidence)
    cell = evidence.cell(place, best)
    ttft, requests, tokens = (cell.get(metric) if cell else None for metric in (TTFT_P50, REQUESTS, TOKENS))
    return Recommendation(level, place, best, why, ttft, requests, tokens, cell is not None and cell.invalid)


def _choose(here: Sequence[Verdict], evidence: Evidence) -> tuple[str, str]:
    first, work = pick(here, TTFT), pick(here, THROUGHPUT)
    if not first:
        return "-", "nothing was judged here"
    good = [verdict for verdict in pick(here, GOODPUT) if verdict.primary]
    verdict, name = (good[0], "goodput") if good else (first[0], "TTFT")
    ended = outcome(verdict)
    if not ended.leaders:
        return "-", f"no verdict: {short_reason(verdict)}"
    if len(ended.leaders) == 1:
        return ended.leaders[0], f"{ended.word} on {name}"
    equal = "tie" if ended.word == "tie" else "undecided"
    reason = f"{listed(ended.leaders)}: {equal} on {name}"
    fit = _answering(ended.leaders, evidence, Place.of(verdict))
    if len(fit) == 1:
        return fit[0], f"{reason}; answered most requests"
    leaders = set(work[0].leaders) & set(fit) if work else set()
    if len(leaders) == 1:
        return next(iter(leaders)), f"{reason}; leads in throughput"
    left = [label for label in evidence.labels if label in (leaders or fit)]
    ranks = {record.label: ORDER.index(complexity(record)) for record in evidence.architectures}
    simplest = [label for label in left if ranks[label] == min(ranks[other] for other in left)]
    if len(simplest) == 1:
        return simplest[0], f"{reason}; simplest to run"
    fastest = min(simplest, key=lambda label: first[0].values.get(label, math.inf))
    return fastest, f"{reason}; shortest mean TTFT"


def _answering(labels: Sequence[str], evidence: Evidence, place: Place) -> Sequence[str]:
    """Return those of equals that answered about as many requests as any: others can't win, only not lose."""
    cells = {label: cell for label in labels if (cell := evidence.cell(place, label)) is not None and cell.requests}
    shares = {label: cell.ok / cell.requests for label, cell in cells.items()}
    most = max(shares.values(), default=0.0)
    return [label for label in labels if shares.get(label, most) >= most - FEWER_ANSWERS]
