"""The tables that comparisons are published with: by load with the winner, crossovers, recommendations, resources."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tercet.report.crossover import primary_curves
from tercet.report.estimate import value_text
from tercet.report.evidence import Cell, Evidence, Group, complexity
from tercet.report.metric import DEVICE_RATE, REQUESTS, TTFT_P50, Metric
from tercet.report.place import Place
from tercet.report.recommend import recommendations
from tercet.report.spans import THROUGHPUT, TTFT, Span, outcome, pick, short_reason, spans
from tercet.results.curve import Improvement, RatioCurve
from tercet.results.document import Results
from tercet.results.verdict import Verdict

INVALID = "✕"
"""Stands behind a figure that is no evidence."""


def print_documents(results: Results, evidence: Evidence, console: Console) -> None:
    """Print the tables of every workload that was measured under more than one load, and those of the whole."""
    for group in evidence.groups:
        if len(evidence.loads(group)) > 1:
            first, work = pick(results.verdicts, TTFT), pick(results.verdicts, THROUGHPUT)
            console.print(by_load_table(evidence, first, group, TTFT_P50))
            console.print(by_load_table(evidence, () if evidence.unequal else work, group, REQUESTS))
            if evidence.unequal:
                console.print(by_load_table(evidence, work, group, DEVICE_RATE))
            curves = [
                c for c in primary_curves(results) if (c.workload, c.load_kind) == (group.workload, group.load_kind)
            ]
            if (table := crossover_table(pick(results.verdicts, TTFT), group)) is not None:
                console.print(table)
            for line in crossover_lines(curves):
                console.print(line, markup=False)
            if results.verdicts:
                console.print(recommendation_table(results, evidence, group))
    for table in improvement_tables(results.improvements):
        console.print(table)
    if len(evidence.architectures) > 1:
        console.print(resource_table(evidence))


def by_load_table(evidence: Evidence, verdicts: Sequence[Verdict], group: Group, metric: Metric) -> Table:
    """Return a metric by load and architecture; of several, with the winner and its margin over the next best."""
    way = "lower is better" if metric.lower_is_better else "higher is better"
    table = _table(f"{group.workload}: {metric.axis}, {way}")
    table.add_column("Concurrency" if group.load_kind == "concurrency" else "Requests/s", justify="right")
    for label in evidence.labels:
        table.add_column(label, justify="right", no_wrap=True)
    rivals = len(evidence.labels) > 1
    if rivals:
        table.add_column("Winner", overflow="fold")
    for load in evidence.loads(group):
        place = Place(group.workload, group.load_kind, load)
        cells = [evidence.cell(place, label) for label in evidence.labels]
        verdict = next((verdict for verdict in verdicts if Place.of(verdict) == place), None)
        present = [cell for cell in cells if cell is not None and not cell.invalid]
        won = [winner_text(verdict, present, metric)] if rivals else []
        table.add_row(f"{load:g}", *(_figure(cell, metric) for cell in cells), *won)
    return table


def winner_text(verdict: Verdict | None, cells: Sequence[Cell], metric: Metric) -> str:
    """Write the winner and by how much its figure betters the next one: `ppd ✓ (12% faster than pd)`."""
    if verdict is None:
        return "not judged"
    ended = outcome(verdict)
    if not ended.leaders:
        return f"no verdict: {short_reason(verdict)}"
    if len(ended.leaders) > 1:
        return f"{ended.word}: {', '.join(ended.leaders)}"
    values = {cell.architecture: found.value for cell in cells if (found := cell.get(metric)) is not None}
    mine = values.pop(ended.leaders[0], None)
    if mine is None or not values:
        return f"{ended.leaders[0]} ✓"
    rival = (min if metric.lower_is_better else max)(values, key=values.__getitem__)
    gain = (1 - mine / values[rival] if metric.lower_is_better else mine / values[rival] - 1) if values[rival] else 0.0
    better, worse = ("faster", "slower") if metric.lower_is_better else ("higher", "lower")
    return f"{ended.leaders[0]} ✓ ({abs(gain):.0%} {better if gain >= 0 else worse} than {rival})"


def crossover_table(verdicts: Sequence[Verdict], group: Group) -> Table | None:
    """Return who answers first in which range of loads, one column a range; None where nobody can be named."""
    mine = [v for v in verdicts if (v.workload, v.load_kind) == (group.workload, group.load_kind)]
    found = spans(mine)
    if not any(span.outcome.leaders for span in found):
        return None
    table = _table(f"{group.workload}: the crossover in time to first token")
    for span in found:
        table.add_column(span.where, justify="center")
    table.add_row(*(_leader_text(span) for span in found))
    return table


def crossover_lines(curves: Sequence[RatioCurve]) -> list[str]:
    """Return what the paired ratios say, a line a pair and metric."""
    return [f"  {curve.label}, {curve.first} against {curve.second}: {curve.sentence}" for curve in curves]


def recommendation_table(results: Results, evidence: Evidence, group: Group) -> Table:
    """Return the best architecture of every level of traffic."""
    table = _table(f"{group.workload}: recommendations")
    for name in ("Traffic level", "Best architecture"):
        table.add_column(name, no_wrap=True)
    for name in ("Median TTFT", "Throughput"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Why", overflow="fold")
    for row in recommendations(results, evidence, group):
        mark = f" {INVALID}" if row.invalid else ""
        table.add_row(
            f"{row.level} ({row.place.title(False)})",
            f"{row.best}{mark}",
            "-" if row.ttft_p50 is None else f"{value_text(row.ttft_p50.value, TTFT_P50)} ms",
            "-" if row.requests_per_s is None else f"{value_text(row.requests_per_s.value, REQUESTS)} req/s",
            row.why,
        )
    return table


def resource_table(evidence: Evidence) -> Table:
    """Return what each architecture takes: workers, devices, and how many kinds of workers there are to run."""
    table = _table("Resources" + (" (UNEQUAL devices)" if evidence.unequal else ""))
    for name in ("Architecture", "Workers"):
        table.add_column(name, no_wrap=True)
    table.add_column("Devices", justify="right")
    table.add_column("Complexity")
    for record in evidence.architectures:
        table.add_row(record.label, record.short_form or "unknown", f"{record.devices}", complexity(record))
    return table


def improvement_tables(improvements: Sequence[Improvement]) -> list[Table]:
    """Return a table for every pair and metric: by how much the first betters the second in each workload."""
    tables = []
    keys = dict.fromkeys((each.first, each.second, each.metric, each.load_kind) for each in improvements)
    for key in keys:
        mine = [each for each in improvements if (each.first, each.second, each.metric, each.load_kind) == key]
        table = _table(f"{mine[0].first} against {mine[0].second}: improvement of {mine[0].label}")
        table.add_column("Workload", no_wrap=True)
        for name in ("Average", "95% interval", "Min", "Max", "Loads"):
            table.add_column(name, justify="right", no_wrap=True)
        for each in mine:
            interval = "-" if each.low is None or each.high is None else f"{each.low:+.1%} to {each.high:+.1%}"
            figures = (f"{each.mean:+.1%}", interval, f"{each.minimum:+.1%}", f"{each.maximum:+.1%}", f"{each.loads}")
            table.add_row(each.workload, *figures)
        tables.append(table)
    return tables


def _leader_text(span: Span) -> str:
    if span.outcome.word == "none":
        return "no verdict"
    if len(span.outcome.leaders) > 1:
        return f"{span.outcome.word}: {', '.join(span.outcome.leaders)}"
    return f"{span.outcome.leaders[0]} best"


def _figure(cell: Cell | None, metric: Metric) -> str:
    found = cell.get(metric) if cell is not None else None
    if cell is None or found is None:
        return "-"
    return value_text(found.value, metric) + (f" {INVALID}" if cell.invalid_runs else "")


def _table(title: str) -> Table:
    return Table(
        min_width=len(title), box=box.MINIMAL, title=title, title_justify="left", title_style="bold", pad_edge=False
    )
