"""The picture files: one PNG a figure, all workloads of a kind of load side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import altair as alt

from tercet.report.charts.bars import bars
from tercet.report.charts.frame import Frame
from tercet.report.charts.hops import hops
from tercet.report.charts.lines import lines
from tercet.report.charts.palette import looks
from tercet.report.charts.pareto import pareto
from tercet.report.charts.ratio import ratio
from tercet.report.charts.render import to_png
from tercet.report.charts.turns import turns
from tercet.report.crossover import drawn_curves
from tercet.report.evidence import Cell, Evidence, Group
from tercet.report.metric import (
    DEVICE_RATE,
    E2E_MEAN,
    E2E_P99,
    GOODPUT,
    REQUESTS,
    SUCCESS,
    TOKENS,
    TPOT_P50,
    TPOT_P99,
    TTFT_P50,
    TTFT_P99,
    Metric,
)
from tercet.results.curve import RatioCurve
from tercet.results.document import Results

COLUMNS = 2
MAX_RATIOS = 12
"""Pairs and workloads in the file of ratios; the others are in `ratios.csv`."""

Draw = Callable[[Frame, Sequence[Cell]], Any]

LINES = {
    "median_ttft": TTFT_P50,
    "p99_ttft": TTFT_P99,
    "median_tpot": TPOT_P50,
    "p99_tpot": TPOT_P99,
    "avg_e2e": E2E_MEAN,
    "p99_e2e": E2E_P99,
    "success_rate": SUCCESS,
    "throughput": TOKENS,
    "request_throughput": REQUESTS,
    "goodput": GOODPUT,
}
"""Names of the files with a line an architecture; `qps_` or `concurrency_` goes before them."""


def pictures(results: Results, evidence: Evidence) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every PNG file, drawn one at a time."""
    kinds = dict.fromkeys(group.load_kind for group in evidence.groups)
    for kind in kinds:
        groups = [group for group in evidence.groups if group.load_kind == kind]
        frame = Frame(looks(evidence.labels), kind, legend=True)
        for name, draw in _draws(evidence).items():
            charts = [(group.workload, chart) for group in groups if (chart := draw(frame, evidence.of(group)))]
            if charts:
                yield f"{kind}_{name}.png", to_png(_side_by_side(charts))
        charts = _ratios(
            frame, [curve for curve in drawn_curves(results, evidence) if curve.load_kind == kind], evidence, groups
        )
        if charts:
            yield f"{kind}_ratio_crossover.png", to_png(_side_by_side(charts))


def _draws(evidence: Evidence) -> dict[str, Draw]:
    side_by_side = DEVICE_RATE if evidence.unequal else TOKENS
    return {
        **{name: _lines_of(metric) for name, metric in LINES.items()},
        "throughput_comparison": lambda frame, cells: bars(frame, cells, side_by_side),
        "turns": turns,
        "pareto": pareto,
        "hops": lambda frame, cells: hops(frame, cells, before_first_token=False),
    }


def _lines_of(metric: Metric) -> Draw:
    return lambda frame, cells: lines(frame, cells, metric)


def _ratios(
    frame: Frame, curves: Sequence[RatioCurve], evidence: Evidence, groups: Sequence[Group]
) -> list[tuple[str, Any]]:
    order = [group.workload for group in groups]
    found: list[tuple[str, Any]] = []
    for curve in sorted(curves, key=lambda curve: order.index(curve.workload) if curve.workload in order else 0):
        chart = ratio(frame, curve, evidence.tie_margin)
        if chart is not None and len(found) < MAX_RATIOS:
            found.append((f"{curve.workload}: {curve.label}, {curve.first} over {curve.second}", chart))
    return found


def _side_by_side(charts: Sequence[tuple[str, Any]]) -> Any:
    titled = [chart.properties(title=title) for title, chart in charts]
    return titled[0] if len(titled) == 1 else alt.concat(*titled, columns=COLUMNS, spacing=28)
