"""The search: every architecture by arithmetic, the promising ones simulated, the best of those under many loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from tercet.plan.architecture import Architecture, architectures
from tercet.plan.bound import upper_bound
from tercet.plan.question import GOOD_SHARE, Question
from tercet.plan.ranking import Ranking, Standing, rank
from tercet.plan.trial import Outcome, Trial, run_trials
from tercet.traffic.spec import LoadKind

KEPT = 18
KEPT_A_FAMILY = 3
FINALISTS = 6
SEEDS = 3
GRID = 6
BEYOND = 1.05
"""No load is simulated that is so far beyond what arithmetic says could be borne."""
TOP = 0.9
"""The grid, and what each is asked, end there: arithmetic knows of no waiting, so what is borne lies below."""
SPAN = 8.0
"""The grid starts at its end over this, or at half of the asked load."""


class Progress(Protocol):
    """Shows how far a long piece of work is."""

    def task(self, text: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """Return a context whose value, when called, advances by one."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found. `curves` holds the finalists' outcomes at the first of `loads`, by rising load: at those that
    arithmetic lets it bear. Beyond them the queue would grow without end. `tops` are the highest loads that each was
    simulated at: what it bears may be more.

    `load` is the one that was ranked at: the asked one, or the highest that the best bears. `considered` counts all
    architectures, `simulated` those that were simulated.
    """

    question: Question
    ranking: Ranking
    load: float
    loads: tuple[float, ...]
    curves: Mapping[Architecture, tuple[Outcome, ...]]
    tops: Mapping[Architecture, float]
    considered: int
    simulated: int

    @property
    def met(self) -> bool:
        """True when the best keeps the limits for enough of its answers."""
        return self.question.slo is None or self.ranking.best.good >= GOOD_SHARE


def search(question: Question, progress: Progress, *, jobs: int = 1, ray: str = "") -> Plan:
    """Return the plan. Deterministic: the same question has the same answer. Raises UsageError."""
    every = architectures(
        question.gpus, question.devices, turns=question.shares, pictures=question.pictures, modes=question.modes
    )
    bounds = {each: upper_bound(question, each) for each in every}
    kept = promising(every, bounds)
    most = max(bounds.values()) or _without_limits(question, every)
    concurrent = question.kind is LoadKind.CONCURRENCY
    first = question.load or (32.0 if concurrent else 0.6 * most)

    known: dict[Trial, Outcome] = {}  # the asked load is one of the grid's, and the first seed's

    def simulated(text: str, trials: Sequence[Trial]) -> list[Outcome]:
        new = [(question, trial) for trial in trials if trial not in known]
        if new:
            with progress.task(text, len(new)) as advance:
                known.update({o.trial: o for o in run_trials(new, jobs=jobs, ray=ray, advance=advance)})
        return [known[trial] for trial in trials]

    screened = simulated("simulating architectures", [Trial(each, first) for each in kept])
    order = rank(question, [Standing(o.trial.architecture, (o,)) for o in screened]).standings
    finalists = _finalists(_distinct(order))
    loads = _grid(question, first, [bounds[each] for each in finalists], most)
    trials = [
        Trial(each, load)
        for each in finalists
        for load in loads
        if concurrent or load <= max(first, loads[0], BEYOND * bounds[each])
    ]
    outcomes = simulated("simulating loads", trials)
    curves = {each: tuple(o for o in outcomes if o.trial.architecture == each) for each in finalists}
    # Between the last load of the grid that one can bear and the next it may bear half as much again: what is borne
    # tells rivals apart, so each is asked at its own end, too.
    ends = [Trial(each, end) for each in finalists if (end := _end(bounds[each])) > curves[each][-1].trial.load]
    beyond = {} if concurrent else {o.trial.architecture: o for o in simulated("simulating highest loads", ends)}
    reached = {each: (*curve, beyond[each]) if each in beyond else curve for each, curve in curves.items()}
    bears = {each: borne(question, curve) for each, curve in reached.items()}
    tops = {each: curve[-1].trial.load for each, curve in reached.items()}
    load = question.load or _highest(loads, max(bears.values()))
    trials = [Trial(each, load, seed) for each in finalists for seed in range(SEEDS)]
    final = simulated("simulating other arrivals", trials)
    standings = [
        Standing(each, tuple(final[i * SEEDS : (i + 1) * SEEDS]), bears[each]) for i, each in enumerate(finalists)
    ]
    return Plan(question, rank(question, standings), load, loads, curves, tops, len(every), len(kept))


def borne(question: Question, curve: Sequence[Outcome]) -> float:
    """Return the highest load whose answers are good, between two loads by the share of good ones; the highest number
    of answers a second where no limits were given. 0 when not even the lowest is borne."""
    if question.slo is None:
        return max(outcome.served for outcome in curve)
    before: Outcome | None = None
    for outcome in curve:
        if outcome.good < GOOD_SHARE:
            if before is None:
                return 0.0
            part = (before.good - GOOD_SHARE) / (before.good - outcome.good)
            return before.trial.load + part * (outcome.trial.load - before.trial.load)
        before = outcome
    return curve[-1].trial.load


def promising(every: Sequence[Architecture], bounds: Mapping[Architecture, float]) -> list[Architecture]:
    """Return the best of each mode by arithmetic, hybrids apart, the best of each family, and the best of all."""
    by_family: dict[object, list[Architecture]] = {}
    for each in sorted(every, key=lambda each: -bounds[each]):
        by_family.setdefault((each.family, each.ppd_threshold), []).append(each)
    firsts = [each for family in by_family.values() for each in family[:KEPT_A_FAMILY]]
    firsts.sort(key=lambda each: -bounds[each])
    ways = {(each.mode, each.hybrid): each for each in reversed(firsts)}.values()
    return list(dict.fromkeys([*ways, *firsts]))[:KEPT]


def _without_limits(question: Question, every: Iterable[Architecture]) -> float:
    """Return what could be borne if nobody minded latency: where to look when no architecture keeps the limits."""
    lenient = replace(question, slo=None)
    return max(upper_bound(lenient, each) for each in every)


def _distinct(ordered: Sequence[Standing]) -> list[Architecture]:
    """Leave out what behaves as another of the same workers does: ppd with a threshold that no turn is below is pd."""
    found: dict[object, Architecture] = {}
    for standing in ordered:
        each, outcome = standing.architecture, standing.outcomes[0]
        behaviour = (each.form, each.tp, outcome.good, outcome.ttft_ms, outcome.tpot_ms, outcome.e2e_ms)
        if behaviour not in found or each.ppd_threshold is None:
            found[behaviour] = each
    return list(found.values())


def _finalists(ordered: Sequence[Architecture]) -> list[Architecture]:
    """Return the best of each mode, hybrids apart, then of each family, then the others: whoever asks wants to see
    their own."""
    modes = {(each.mode, each.hybrid): each for each in reversed(ordered)}.values()
    families = {each.family: each for each in reversed(ordered)}.values()
    firsts = [*sorted(modes, key=ordered.index), *sorted(families, key=ordered.index)]
    return list(dict.fromkeys([*firsts, *ordered]))[:FINALISTS]


def _grid(question: Question, asked: float, bounds: Sequence[float], most: float) -> tuple[float, ...]:
    """Return rising loads, the asked one among them."""
    if question.kind is LoadKind.CONCURRENCY:
        return tuple(sorted({1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, asked}))
    high = max(TOP * (max(bounds) or most), 1.25 * asked)
    low = min(asked / 2, high / 2) if asked < high / SPAN else high / SPAN
    ratio = (high / low) ** (1 / (GRID - 1))
    return tuple(sorted({*(float(f"{low * ratio**i:.3g}") for i in range(GRID)), asked}))


def _end(bound: float) -> float:
    return float(f"{TOP * bound:.3g}")


def _highest(loads: Sequence[float], bears: float) -> float:
    return max((load for load in loads if load <= bears), default=loads[0])
