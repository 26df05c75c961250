"""A plan as text: the table, the verdict, ranges of load, what would change it, and what was assumed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tercet.cli.device_options import Device
from tercet.plan.architecture import Architecture
from tercet.plan.question import GOOD_SHARE, Question
from tercet.plan.ranking import Standing, crossovers, objective_gap
from tercet.plan.search import Plan
from tercet.plan.sensitivity import Effect
from tercet.report.figures import milliseconds
from tercet.traffic.spec import LoadKind

DECIDED = {
    "goodput": "it gives more good answers",
    "headroom": "it bears a higher load",
    "latency": "it answers sooner",
    "simplicity": "nothing tells it from the others but that it is the simplest",
}
OF_THOSE = {"headroom": "bear about the highest load", "latency": "answer about the soonest"}
"""What those have in common that were left when others had been left out by it."""
HOUR_S = 3600.0


def print_plan(plan: Plan, effects: Sequence[Effect], device: Device, console: Console, *, took_s: float) -> None:
    """Print all of it."""
    console.print(_title(plan), markup=False, style="bold", soft_wrap=True)
    console.print(ranking_table(plan))
    for line in conclusion(plan):
        console.print(line, markup=False, soft_wrap=True)
    console.print()
    console.print(curve_table(plan))
    for line in ranges(plan):
        console.print(line, markup=False, soft_wrap=True)
    console.print()
    console.print("What would change the choice:", markup=False, style="bold")
    for line in changes(plan, effects):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print()
    for line in _assumed(plan.question, device):
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        f"Of {plan.considered} architectures {plan.simulated} were simulated, in {took_s:.0f} s. Predicted, not "
        "measured: docs/planning.md says how near that comes.",
        markup=False,
        soft_wrap=True,
    )


def _title(plan: Plan) -> str:
    question = plan.question
    limits = "no limits" if question.slo is None else f"limits {question.slo}"
    return f"{question.traffic.name} at {load_text(question, plan.load)} on {question.gpus} GPUs, {limits}"


def load_text(question: Question, load: float) -> str:
    """Write a load with its unit."""
    return f"{load:.3g}/s" if question.kind is LoadKind.QPS else f"{load:g} at once"


def ranking_table(plan: Plan) -> Table:
    """Return the finalists, best first: figures at the plan's load."""
    question = plan.question
    limited = question.slo is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("architecture", no_wrap=True)
    if limited:
        table.add_column("goodput/s", justify="right", no_wrap=True)
        table.add_column("per GPU", justify="right", no_wrap=True)
        table.add_column("within\nlimits", justify="right", no_wrap=True)
    for name in ("TTFT", "TPOT", "E2E"):
        table.add_column(f"{name}, ms\np50 / p95 / p99", justify="right", no_wrap=True)
    table.add_column("bears" if limited else "at most", justify="right", no_wrap=True)
    if question.price is not None:
        table.add_column("1M output\ntokens", justify="right", no_wrap=True)
    for standing in plan.ranking.standings:
        cells = [standing.architecture.label]
        if limited:
            per_gpu = f"{standing.goodput / question.gpus:.3f}"
            cells += [f"{standing.goodput:.2f}", per_gpu, f"{standing.good:.0%}"]
        cells += [_spread(standing, name) for name in ("ttft_ms", "tpot_ms", "e2e_ms")]
        cells.append(_bears(plan, standing))
        if question.price is not None:
            cells.append(_cost(question, standing))
        table.add_row(*cells)
    return table


def _spread(standing: Standing, metric: str) -> str:
    values = [standing.latency(metric, which) for which in ("p50", "p95", "p99")]
    return " / ".join("-" if math.isinf(value) else milliseconds(value) for value in values)


def _bears(plan: Plan, standing: Standing) -> str:
    if plan.question.slo is None:
        return f"{standing.bears:.3g}/s"
    if not standing.bears:
        return f"< {load_text(plan.question, plan.loads[0])}"
    beyond = standing.bears >= plan.tops[standing.architecture]
    return ("> " if beyond else "") + load_text(plan.question, standing.bears)


def _cost(question: Question, standing: Standing) -> str:
    """Return what a million output tokens of good answers cost."""
    tokens = standing.good_tokens_s
    if not tokens or question.price is None:
        return "-"
    return f"{question.price * question.gpus / HOUR_S / tokens * 1e6:.2f}"


def conclusion(plan: Plan) -> Iterator[str]:
    """Yield the verdict: which to take, by how much it is ahead or with whom it ties, and how many GPUs it takes."""
    question, ranking = plan.question, plan.ranking
    best = ranking.best
    if not plan.met:
        yield from _unmet(plan)
    at = load_text(question, plan.load)
    if ranking.ties:
        others = ", ".join(each.label for each in ranking.ties)
        what = "goodput" if question.slo is not None else "latency"
        yield f"Tie at {at}: {best.architecture.label} is within {question.tie_margin:.0%} in {what} of {others}."
        after = " and ".join(OF_THOSE[name] for name in ranking.after)
        which = f"of those that {after} " if after else ""
        yield f"Recommended: {best.architecture.label}, since {which}{DECIDED[ranking.decided]}."
    else:
        yield f"Recommended: {best.architecture.label}, since {DECIDED[ranking.decided]}."
    behind = [each for each in ranking.standings[1:] if each.architecture not in ranking.ties]
    if behind:
        ratio = objective_gap(question, best, behind[0]).ratio
        yield f"Next: {behind[0].architecture.label}, {_worse(question, ratio)}."
    if question.load and best.bears and question.kind is LoadKind.QPS and question.slo is not None and plan.met:
        needed = gpus_for(best.architecture, plan.load / best.bears)
        if needed < question.gpus:
            about = f"about {needed} GPU{'' if needed == 1 else 's'}"
            yield f"At this rate of {best.bears / question.gpus:.2f}/s a GPU, {at} would need {about}."


def gpus_for(architecture: Architecture, share: float) -> int:
    """Return how many GPUs so large a share of an architecture has, in whole workers: one of each kind at least."""
    kinds = (architecture.encode, architecture.prefill, architecture.decode, architecture.whole)
    workers = max(math.ceil(architecture.workers * share), sum(count > 0 for count in kinds))
    return workers * architecture.tp


def _worse(question: Question, ratio: float) -> str:
    if question.slo is None:
        return f"{ratio - 1:.0%} slower"
    return "with next to no good answers" if ratio > 100 else f"with {1 - 1 / ratio:.0%} less goodput"


def _unmet(plan: Plan) -> Iterator[str]:
    """Say that nothing keeps the limits, what comes closest, and which limits it would keep."""
    best, slo = plan.ranking.best, plan.question.slo
    assert slo is not None
    yield (
        f"Nothing on {plan.question.gpus} GPUs keeps {slo} for {GOOD_SHARE:.0%} of answers at "
        f"{load_text(plan.question, plan.load)}. {best.architecture.label} comes closest, with {best.good:.0%}."
    )
    kept = []
    for name, limit in (("ttft", slo.ttft_ms), ("tpot", slo.tpot_ms), ("e2e", slo.e2e_ms)):
        reached = best.latency(f"{name}_ms", "p95")
        if limit is not None and not math.isinf(reached):
            kept.append(f"{name}:{reached:.3g}" + ("" if reached <= limit else f" instead of {limit:g}"))
    if kept:
        yield f"It would keep {', '.join(kept)} for 95% of them."
    if best.bears:
        yield f"It keeps the limits up to {load_text(plan.question, best.bears)}."


def curve_table(plan: Plan) -> Table:
    """Return goodput against load: a row an architecture."""
    limited = plan.question.slo is not None
    title = "goodput/s by load" if limited else "mean E2E by load, ms"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("architecture", no_wrap=True)
    for load in plan.loads:
        table.add_column(f"{load:.3g}", justify="right", no_wrap=True)
    for standing in plan.ranking.standings:
        curve = plan.curves[standing.architecture]
        cells = [
            f"{each.goodput:.3g}" if limited else "-" if each.e2e_ms is None else milliseconds(each.e2e_ms.mean)
            for each in curve
        ]
        table.add_row(standing.architecture.label, *cells, *["-"] * (len(plan.loads) - len(curve)))
    return table


def ranges(plan: Plan) -> Iterator[str]:
    """Yield who is best in which range of load. Not all were simulated at the highest: beyond what arithmetic lets one
    bear it is left out."""
    everybody = min(curve[-1].trial.load for curve in plan.curves.values())
    for low, high, best in crossovers(plan.question, plan.curves, plan.ranking.standings):
        unit = "/s" if plan.question.kind is LoadKind.QPS else " at once"
        span = f"At {low:.3g}{unit}" if low == high else f"From {low:.3g} to {high:.3g}{unit}"
        who = "a tie at the top" if best is None else f"{best.label} is best"
        yield f"{span}: {who}{'' if high <= everybody else ' of those simulated there'}"


def changes(plan: Plan, effects: Sequence[Effect]) -> Iterator[str]:
    """Yield what each changed assumption does to the choice."""
    best = plan.ranking.best.architecture
    for effect in effects:
        if effect.flips:
            more = "goodput" if plan.question.slo is not None else "speed"
            ahead = f"{effect.ratio - 1:.0%} more {more}" if effect.ratio < 100 else "it still gives good answers"
            yield f"{effect.name}: {effect.best.label} instead ({ahead})"
    kept = [effect.name for effect in effects if not effect.flips]
    if kept:
        yield f"{best.label} stays, alone or in a tie, with: {'; '.join(kept)}"


def _assumed(question: Question, device: Device) -> Iterator[str]:
    stack = question.stack
    yield f"Assumed: {'; '.join(device.assumed)}" if device.assumed else "Nothing was assumed about the device."
    yield (
        f"Stack: x{stack.scale:g}, {stack.per_request_ms:g} ms a request, {stack.hop_ms:g} ms a handoff "
        f"({stack.source})"
    )
