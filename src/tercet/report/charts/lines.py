"""A figure against load: one line an architecture, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tercet.report.charts.frame import HEIGHT, WIDTH, Frame, Picture, Row, inline, value_axis
from tercet.report.charts.palette import BAD, SURFACE
from tercet.report.estimate import Estimate, estimate_text
from tercet.report.evidence import Cell
from tercet.report.metric import Metric


def lines(frame: Frame, cells: Sequence[Cell], metric: Metric) -> Picture | None:
    """Draw a metric of one group's cells against load; None where nothing was measured."""
    rows = [row for cell in cells if (row := _row(cell, metric)) is not None]
    if not rows:
        return None
    loads = sorted({row["load"] for row in rows})
    x = frame.x(loads)
    ends = [value for row in rows for value in (row["low"], row["value"], row["high"])]
    y = value_axis(metric.axis, ends, unit_is_share=metric.unit == "%")
    base = alt.Chart(inline(rows)).encode(x=x, color=frame.color())
    layers: list[alt.Chart] = []
    if len(loads) > 1:
        layers.append(base.mark_area(opacity=0.13, aria=False, clip=True).encode(y=_like(y, "low"), y2="high:Q"))
        layers.append(base.mark_line(strokeWidth=2, aria=False).encode(y=y))
    layers.append(base.mark_rule(strokeWidth=1.2, aria=False, clip=True).encode(y=_like(y, "low"), y2="high:Q"))
    layers.append(
        base.mark_point(filled=True, size=62, opacity=1)
        .encode(y=y, shape=frame.shape(), description="tip:N")
        .transform_filter("!datum.invalid")
    )
    if any(row["invalid"] for row in rows):
        layers += invalid_marks(base.encode(y=y), frame)
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def invalid_marks(base: alt.Chart, frame: Frame) -> list[alt.Chart]:
    """Return the marks of what is no evidence: a hollow point with a red cross on it."""
    bad = base.transform_filter("datum.invalid")
    return [
        bad.mark_point(filled=False, fill=SURFACE.light, size=62, strokeWidth=1.5, opacity=1, aria=False).encode(
            shape=frame.shape()
        ),
        bad.mark_text(text="✕", color=BAD.light, fontSize=12, fontWeight="bold").encode(
            color=alt.value(BAD.light), description="tip:N"
        ),
    ]


def tip(cell: Cell, estimate: Estimate, metric: Metric, kind: str = "") -> str:
    """Return what a point or bar says of itself."""
    invalid = " (INVALID: no evidence)" if cell.invalid else ""
    what = f"{cell.architecture}, {kind}" if kind else cell.architecture
    return f"{what}, {cell.place.title(False)}: {estimate_text(estimate, metric)} {metric.unit}{invalid}"


def _like(axis: alt.Y, field: str) -> alt.Y:
    """Return the same axis for another field."""
    copy = axis.copy()
    copy.shorthand = f"{field}:Q"
    return copy


def _row(cell: Cell, metric: Metric) -> Row | None:
    estimate = cell.get(metric)
    if estimate is None:
        return None
    factor = 100.0 if metric.unit == "%" else 1.0
    return {
        "architecture": cell.architecture,
        "load": cell.place.load,
        "value": estimate.value * factor,
        "low": (estimate.value if estimate.low is None else estimate.low) * factor,
        "high": (estimate.value if estimate.high is None else estimate.high) * factor,
        "invalid": cell.invalid,
        "tip": tip(cell, estimate, metric),
    }
