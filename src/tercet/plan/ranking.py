"""Which of two architectures is better under a load, by how much, and when nobody can say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key

from tercet.plan.architecture import Architecture
from tercet.plan.question import Question
from tercet.plan.trial import Outcome

FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one architecture: a run for each seed at the asked load, and the load it bears (0: unknown)."""

    architecture: Architecture
    outcomes: tuple[Outcome, ...]
    bears: float = 0.0

    @property
    def goodput(self) -> float:
        """Good answers a second, the seeds' mean."""
        return sum(outcome.goodput for outcome in self.outcomes) / len(self.outcomes)

    @property
    def good(self) -> float:
        """Share of answers within the limits, the seeds' mean."""
        return sum(outcome.good for outcome in self.outcomes) / len(self.outcomes)

    @property
    def good_tokens_s(self) -> float:
        """Output tokens of good answers a second, at the goodput: over a run's time its ending, in which nothing more
        is asked, would count too."""
        told = [each.goodput * each.tokens_s / each.served for each in self.outcomes if each.served]
        return sum(told) / len(self.outcomes)

    def latency(self, metric: str, which: str = "mean") -> float:
        """Return mean, p50, p95 or p99 of `ttft_ms`, `tpot_ms` or `e2e_ms`, averaged over the seeds; infinite when a
        run answered nothing."""
        spreads = [getattr(outcome, metric) for outcome in self.outcomes]
        if any(spread is None for spread in spreads):
            return math.inf
        return float(sum(getattr(spread, which) for spread in spreads) / len(spreads))


@dataclass(frozen=True, slots=True)
class Gap:
    """How `first` compares with `second`: `ratio` above 1 is better. `sure` when every seed says so and the ratio is
    beyond the tie margin; else it is a tie."""

    ratio: float
    sure: bool

    @property
    def sign(self) -> int:
        """1: better; -1: worse; 0: a tie."""
        return 0 if not self.sure else 1 if self.ratio > 1 else -1


def objective_gap(question: Question, first: Standing, second: Standing) -> Gap:
    """Compare by goodput, or by mean E2E latency where no limits were given; run by run of the same conversations."""
    pairs = list(zip(first.outcomes, second.outcomes, strict=False))
    if question.slo is not None:
        return _gap([(one.goodput, other.goodput) for one, other in pairs], question.tie_margin)
    return _gap([(_e2e(other), _e2e(one)) for one, other in pairs], question.tie_margin)


def _e2e(outcome: Outcome) -> float:
    return math.inf if outcome.e2e_ms is None else outcome.e2e_ms.mean


def _gap(pairs: Sequence[tuple[float, float]], margin: float) -> Gap:
    logs = [math.log(_within(one) / _within(other)) for one, other in pairs]
    mean = sum(logs) / len(logs)
    same = all(value > 0 for value in logs) or all(value < 0 for value in logs)
    return Gap(math.exp(mean), same and abs(mean) > math.log1p(margin))


def _within(value: float) -> float:
    return min(max(value, FLOOR), 1 / FLOOR)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Standings, best first. `ties` are the others that the asked load does not tell from the first; `decided` says by
    what the first was chosen: goodput, latency, headroom, or simplicity when nothing else tells them apart; `after` by
    what some of them were left out before that."""

    standings: tuple[Standing, ...]
    ties: tuple[Architecture, ...]
    decided: str
    after: tuple[str, ...] = ()

    @property
    def best(self) -> Standing:
        """The recommended one."""
        return self.standings[0]


def rank(question: Question, standings: Sequence[Standing]) -> Ranking:
    """Order them: by the objective; what ties with the best of it by headroom, then latency, then simplicity."""
    objective = "goodput" if question.slo is not None else "latency"
    ordered = _sorted(question, standings)
    leaders = [each for each in ordered if objective_gap(question, ordered[0], each).sign == 0]
    decided = objective
    after: tuple[str, ...] = ()
    if len(leaders) > 1:
        best, decided, after = _among(leaders, question.tie_margin)
        ordered.remove(best)
        ordered.insert(0, best)
    ties = tuple(each.architecture for each in leaders if each is not ordered[0])
    return Ranking(tuple(ordered), ties, decided, after)


def _sorted(question: Question, standings: Sequence[Standing]) -> list[Standing]:
    def compare(first: Standing, second: Standing) -> int:
        return _by_value(question, first, second)

    return sorted(standings, key=cmp_to_key(compare))


def _by_value(question: Question, first: Standing, second: Standing) -> int:
    """Compare by the bare figure: an order has to be one, and ties are not transitive."""
    ratio = objective_gap(question, first, second).ratio
    return -1 if ratio > 1 else int(ratio < 1)


def _among(leaders: Sequence[Standing], margin: float) -> tuple[Standing, str, tuple[str, ...]]:
    """Choose one of those that tie, and say by what, and by what others were left out before."""
    left = list(leaders)
    after: list[str] = []
    for name, value in (("headroom", _headroom), ("latency", _quickness)):
        most = max(value(each) for each in left)
        near = [each for each in left if value(each) * (1 + margin) >= most]
        if len(near) < len(left):
            left = near
            if len(left) == 1:
                return left[0], name, tuple(after)
            after.append(name)
    simplest = min(left, key=lambda each: (_stages(each.architecture), each.architecture.tp, -_quickness(each)))
    return simplest, "simplicity", tuple(after)


def _headroom(standing: Standing) -> float:
    return standing.bears


def _quickness(standing: Standing) -> float:
    return 1 / _within(standing.latency("e2e_ms"))


def _stages(architecture: Architecture) -> int:
    return sum(bool(n) for n in (architecture.encode, architecture.prefill, architecture.decode, architecture.whole))


def crossovers(
    question: Question, curves: Mapping[Architecture, Sequence[Outcome]], ranked: Sequence[Standing] = ()
) -> list[tuple[float, float, Architecture | None]]:
    """Return ranges of load (from, to) with who is best in them, None where nobody is by more than the tie margin.

    Loads are those that were simulated; neighbouring loads with the same answer are one range. At the load at which all
    were `ranked`, by more than one seed, it is as there.
    """
    known = {standing.architecture: standing for standing in ranked}
    asked = ranked[0].outcomes[0].trial.load if ranked else None
    ranges: list[tuple[float, float, Architecture | None]] = []
    names = list(curves)
    for index in range(max(len(curve) for curve in curves.values())):
        standings = [
            known[name]
            if curves[name][index].trial.load == asked and name in known
            else Standing(name, (curves[name][index],))
            for name in names
            if index < len(curves[name])
        ]
        ordered = _sorted(question, standings)
        sure = all(objective_gap(question, ordered[0], other).sure for other in ordered[1:])
        best = ordered[0].architecture if sure else None
        load = ordered[0].outcomes[0].trial.load
        if ranges and ranges[-1][2] == best:
            ranges[-1] = (ranges[-1][0], load, best)
        else:
            ranges.append((load, load, best))
    return ranges
