"""One simulated run of one architecture, and what a plan keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tercet.plan.architecture import Architecture
from tercet.plan.means import means_of
from tercet.plan.question import Question
from tercet.results.summary import Spread
from tercet.sim.result import SimulationResult
from tercet.sim.sweep import Case, sweep
from tercet.traffic.spec import LoadKind

WINDOW_S = 30.0
ANSWERS = 4.0
"""So long a run should last, and for so many answers on top: an overloaded fleet needs time to show it."""
BATCH = 32
MIN_REQUESTS, MAX_REQUESTS = 150, 800
CLOSED_WAVES = 5
"""Requests of a closed loop: so many for each that is under way."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An architecture at a load, with the conversations of a seed."""

    architecture: Architecture
    load: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What users saw. Spreads are in milliseconds, None when no answer was whole.

    `good` is the share of all requests that were answered within the limits (without limits: answered). `offered` and
    `served` are requests a second that were asked and answered; `tokens_s` output tokens a second.
    """

    trial: Trial
    good: float
    offered: float
    served: float
    tokens_s: float
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    e2e_ms: Spread | None

    @property
    def goodput(self) -> float:
        """Good answers a second of steady traffic: the share, times what was offered. A run's ending, when the last
        answers are waited for, counts for nothing."""
        return self.good * self.offered


def requests_for(question: Question, load: float) -> int:
    """Return how many requests a run at this load needs."""
    if question.kind is LoadKind.CONCURRENCY:
        return round(min(max(MIN_REQUESTS, CLOSED_WAVES * load), MAX_REQUESTS))
    means = means_of(question.traffic)
    device = question.devices[min(question.devices)].oracle
    answer_s = means.output * device.decode(BATCH, means.context) / 1e3
    return round(min(max(MIN_REQUESTS, (WINDOW_S + ANSWERS * answer_s) * load), MAX_REQUESTS))


def run_trials(
    asked: Sequence[tuple[Question, Trial]],
    *,
    jobs: int = 1,
    ray: str = "",
    advance: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Simulate all, in processes or on a cluster; return the outcomes in order. Raises UsageError."""
    cases = [
        Case(
            question.fleet(trial.architecture),
            question.traffic_at(trial.load, requests_for(question, trial.load), trial.seed),
            # Equal for all architectures: they see the very same conversations at the same times.
            salt=f"plan-{trial.seed}-{trial.load:g}",
            records=False,
            slo=question.slo,
        )
        for question, trial in asked
    ]
    outcomes: list[Outcome | None] = [None] * len(asked)
    for index, result in sweep(cases, jobs=jobs, ray=ray):
        outcomes[index] = _outcome(*asked[index], result)
        advance()
    return [outcome for outcome in outcomes if outcome is not None]


def _outcome(question: Question, trial: Trial, result: SimulationResult) -> Outcome:
    figures = result.figures
    good = (figures.good if question.slo is not None else figures.ok) / figures.requests
    # Without limits an answer is good however late it comes: then what counts is how fast they come.
    steady = question.kind is LoadKind.QPS and question.slo is not None
    return Outcome(
        trial,
        good,
        trial.load if steady else result.requests_per_s,
        result.requests_per_s,
        result.output_tokens_per_s,
        figures.ttft_ms.spread(),
        figures.tpot_ms.spread(),
        figures.e2e_ms.spread(),
    )
