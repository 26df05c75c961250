"""Evidence as tables: recommendations, every figure by load, ratios and the client's health."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.report.estimate import Estimate, value_text
from tercet.report.evidence import Cell, Evidence, Group
from tercet.report.figures import milliseconds, percent
from tercet.report.metric import REQUESTS, TOKENS, TTFT_P50, Metric
from tercet.report.page.parts import Grid, Value
from tercet.report.recommend import Recommendation
from tercet.results.curve import Improvement, Interference, RatioCurve

DASH = Value("-")


def recommendation_grid(group: Group, rows: Sequence[Recommendation]) -> Grid:
    """Return the recommendations of one group."""
    return Grid(
        group.workload,
        ("Traffic level", "Best architecture", "Median TTFT (ms)", "Requests/s", "Output tok/s", "Why"),
        tuple(
            (
                Value(row.level, row.place.title(False), "head"),
                Value(row.best, "invalid" if row.invalid else "", "bad" if row.invalid else "good"),
                estimate_value(row.ttft_p50, TTFT_P50),
                estimate_value(row.requests_per_s, REQUESTS),
                estimate_value(row.tokens_per_s, TOKENS),
                Value(row.why, kind="text"),
            )
            for row in rows
        ),
    )


def figure_grid(evidence: Evidence, metric: Metric) -> Grid | None:
    """Return a metric by place and architecture; None where nobody has it."""
    if not any(cell.get(metric) for cell in evidence.cells):
        return None
    places = dict.fromkeys(cell.place for cell in evidence.cells)
    rows = tuple(
        (
            Value(place.workload, kind="head"),
            Value(place.title(False), kind="text"),
            *(_figure(evidence.cell(place, label), metric) for label in evidence.labels),
        )
        for place in places
    )
    return Grid(metric.axis, ("Workload", "Load", *evidence.labels), rows, folded=True)


def estimate_value(found: Estimate | None, metric: Metric) -> Value:
    """Return an estimate as a cell, its interval as the note."""
    if found is None:
        return DASH
    note = ""
    if found.low is not None and found.high is not None:
        note = f"{value_text(found.low, metric)} to {value_text(found.high, metric)}"
    return Value(value_text(found.value, metric), note)


def ratio_grid(curves: Sequence[RatioCurve]) -> Grid:
    """Return who is better where, in words."""
    rows = tuple(
        (
            Value(curve.workload, kind="head"),
            Value(curve.label, kind="text"),
            Value(f"{curve.first} / {curve.second}", kind="text"),
            Value(curve.sentence[:1].upper() + curve.sentence[1:], kind="text"),
        )
        for curve in curves
    )
    return Grid("Crossovers", ("Workload", "Metric", "Pair", "Who is better where"), rows)


def improvement_grid(improvements: Sequence[Improvement]) -> Grid:
    """Return by how much one architecture betters another, over all loads of a workload."""
    rows = tuple(
        (
            Value(f"{each.first} against {each.second}", kind="head"),
            Value(each.label, kind="text"),
            Value(each.workload, kind="text"),
            Value(share(each.mean), _range(each.low, each.high)),
            Value(share(each.minimum)),
            Value(share(each.maximum)),
            Value(f"{each.loads}"),
        )
        for each in improvements
    )
    return Grid(
        "Improvement: a positive share is better, a negative one worse",
        ("Pair", "Metric", "Workload", "Mean over loads", "Least", "Most", "Loads"),
        rows,
    )


def interference_grid(found: Sequence[Interference]) -> Grid:
    """Return what a long prompt did to running answers."""
    rows = tuple(
        (
            Value(each.architecture, kind="head"),
            Value(f"{each.streams}"),
            Value(f"{each.prompt_tokens}"),
            Value(milliseconds(each.quiet_itl_ms_mean), f"max {milliseconds(each.quiet_itl_ms_max)}"),
            Value(milliseconds(each.during_itl_ms_mean), f"max {milliseconds(each.during_itl_ms_max)}"),
            Value(f"{each.during_itl_ms_mean / each.quiet_itl_ms_mean:.1f}×" if each.quiet_itl_ms_mean else "-"),
            Value(milliseconds(each.prompt_ttft_ms)),
        )
        for each in found
    )
    head = (
        "Architecture", "Running answers", "Prompt (tokens)", "ITL before (ms)", "ITL meanwhile (ms)", "Slower by",
        "Prompt's TTFT (ms)",
    )  # fmt: skip
    return Grid("A long prompt among running answers", head, rows)


def health_grid(evidence: Evidence) -> Grid:
    """Return how the client fared in every cell, the invalid ones marked."""
    head = (
        "Architecture", "Workload", "Load", "Send delay p99 (ms)", "Send delay max (ms)", "Loop lag p99 (ms)",
        "Client CPU", "Others' work (cores)", "Runs",
    )  # fmt: skip
    rows = tuple(_health_row(cell) for cell in evidence.cells)
    return Grid("Worst run of every row", head, rows, folded=len(rows) > 12)


def share(value: float) -> str:
    """Write an improvement: `+34%`, `-5%`."""
    return f"{value * 100:+.0f}%"


def _health_row(cell: Cell) -> tuple[Value, ...]:
    bad = cell.invalid_runs > 0
    runs = f"{cell.invalid_runs} of {cell.runs} invalid" if bad else f"{cell.runs} valid"
    return (
        Value(cell.architecture, kind="head"),
        Value(cell.place.workload, kind="text"),
        Value(cell.place.title(False), kind="text"),
        Value(milliseconds(cell.health.lateness_ms_p99)),
        Value(milliseconds(cell.health.lateness_ms_max)),
        Value(milliseconds(cell.health.loop_lag_ms_p99)),
        Value(percent(cell.health.cpu_fraction)),
        DASH if cell.foreign_cores is None else Value(f"{cell.foreign_cores:.2f}"),
        Value(runs, "; ".join(cell.reasons), "bad" if bad else "good"),
    )


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{share(low)} to {share(high)}"


def _figure(cell: Cell | None, metric: Metric) -> Value:
    if cell is None:
        return DASH
    value = estimate_value(cell.get(metric), metric)
    if not cell.invalid_runs or value is DASH:
        return value
    marks = "INVALID" if cell.invalid else f"{cell.invalid_runs} of {cell.runs} runs invalid"
    return Value(value.text, f"{value.note}, {marks}" if value.note else marks, "bad" if cell.invalid else "number")
