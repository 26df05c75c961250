"""What would change the recommendation: the best ones again, with one assumption changed at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tercet.plan.architecture import Architecture
from tercet.plan.question import Question
from tercet.plan.ranking import Standing, objective_gap, rank
from tercet.plan.search import Plan, Progress
from tercet.plan.trial import Outcome, Trial, run_trials
from tercet.traffic.spec import LoadKind

RIVALS = 4
SMALL_BUDGET = 2048
LONG_HOP_MS = 50.0


@dataclass(frozen=True, slots=True)
class Change:
    """One assumption that may be wrong, and the question as it is then."""

    name: str
    question: Question
    load: float


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change does. `best` is then ahead of the recommended one by `ratio` (of the objective); `flips` when that
    is sure, and not so without the change."""

    name: str
    best: Architecture
    ratio: float
    flips: bool


def sensitivity(plan: Plan, progress: Progress, *, jobs: int = 1, ray: str = "") -> tuple[Effect, ...]:
    """Return what each change does to the choice among the best of the plan. One seed each: it shows, it does not
    prove."""
    rivals = _rivals(plan)
    changes = tuple(changes_of(plan.question, plan.load, rivals))
    trials = [(change.question, Trial(each, change.load)) for change in changes for each in rivals]
    with progress.task("changing assumptions", len(trials)) as advance:
        outcomes = run_trials(trials, jobs=jobs, ray=ray, advance=advance)
    count = len(rivals)
    return tuple(effect_of(change, plan, outcomes[i * count : (i + 1) * count]) for i, change in enumerate(changes))


def _rivals(plan: Plan) -> list[Architecture]:
    ordered = [standing.architecture for standing in plan.ranking.standings]
    ways = {each.mode: each for each in reversed(ordered)}.values()
    return list(dict.fromkeys([ordered[0], *ordered[1:2], *sorted(ways, key=ordered.index)]))[:RIVALS]


def changes_of(question: Question, load: float, rivals: Sequence[Architecture]) -> Iterator[Change]:
    """Yield the changes that can matter to these architectures."""
    stack, caps = question.stack, question.caps

    def but(name: str, **fields: object) -> Change:
        return Change(name, replace(question, **fields), load)  # type: ignore[arg-type]

    yield but("every step 15% slower", stack=stack.but(scale=stack.scale * 1.15))
    yield but("every step 15% faster", stack=stack.but(scale=stack.scale / 1.15))
    if any(each.decode for each in rivals):
        hop = max(3 * stack.hop_ms, LONG_HOP_MS)
        yield but(f"a handoff of KV takes {hop:g} ms", stack=stack.but(hop_ms=hop))
        links = [question.link_bytes_s or device.link_bytes_s for device in question.devices.values()]
        slow = min(links) / 8
        yield but(f"KV moves at {slow / 1e9:.3g} GB/s", link_bytes_s=slow)
    if any(each.encode for each in rivals) or question.pictures:
        host = 2 * stack.image_host_ms
        yield but(f"a picture takes its host {host:g} ms", stack=stack.but(image_host_ms=host))
    if caps.max_num_batched_tokens > SMALL_BUDGET:
        yield but(f"steps of {SMALL_BUDGET} tokens", caps=replace(caps, max_num_batched_tokens=SMALL_BUDGET))
    if question.traffic.dataset is None:
        for name, inputs, outputs in (("prompts", 1.5, 1.0), ("answers", 1.0, 1.5)):
            yield Change(f"{name} half as long again", _grown(question, inputs, outputs), load)
    more = round(load * 1.25) if question.kind is LoadKind.CONCURRENCY else load * 1.25
    yield Change("a quarter more load", question, float(more))


def _grown(question: Question, inputs: float, outputs: float) -> Question:
    workload = question.traffic.workload
    grown = workload.with_lengths(workload.inputs.scaled(inputs), workload.outputs.scaled(outputs))
    return replace(question, traffic=replace(question.traffic, workload=grown))


def effect_of(change: Change, plan: Plan, outcomes: Sequence[Outcome]) -> Effect:
    """Return the effect of a change with which the rivals had such `outcomes`, one seed each.

    Who is as surely ahead by that seed without any change is so by its arrivals: the change flips nothing.
    """
    standings: Mapping[Architecture, Standing] = {
        outcome.trial.architecture: Standing(outcome.trial.architecture, (outcome,)) for outcome in outcomes
    }
    recommended = plan.ranking.best.architecture
    best = rank(change.question, tuple(standings.values())).standings[0].architecture
    gap = objective_gap(change.question, standings[best], standings[recommended])
    seed = outcomes[0].trial.seed
    before = {
        standing.architecture: Standing(
            standing.architecture, tuple(o for o in standing.outcomes if o.trial.seed == seed)
        )
        for standing in plan.ranking.standings
    }
    already = objective_gap(plan.question, before[best], before[recommended]).sign > 0
    return Effect(change.name, best, gap.ratio, gap.sign > 0 and not already)
