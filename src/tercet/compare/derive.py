"""Everything that follows from runs: summaries, verdicts, curves and improvements, for a fresh or a merged file."""

from __future__ import annotations

from dataclasses import replace

from tercet.compare.cell import cells
from tercet.compare.crossover import curves
from tercet.compare.improvement import improvements
from tercet.compare.verdict import judge
from tercet.results.document import Method, Results
from tercet.results.summary import summarise


def derived(results: Results, method: Method) -> Results:
    """Return `results` with all that its runs, traffics and architectures say, judged by `method`."""
    rows = cells(results.runs, results.traffics, results.architectures)
    devices = {record.label: record.devices for record in results.architectures}
    labels = list(devices)
    in_order = sorted(results.runs, key=lambda run: labels.index(run.architecture))
    return replace(
        results,
        summaries=summarise(in_order, devices),
        verdicts=tuple(
            verdict for cell in rows for verdict in judge(cell, primary=method.primary, tie_margin=method.tie_margin)
        ),
        curves=curves(rows, method.tie_margin, method.primary),
        improvements=improvements(rows, results.architectures),
        method=method,
    )
