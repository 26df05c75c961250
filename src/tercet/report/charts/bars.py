"""Throughput side by side."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tercet.report.charts.frame import HEIGHT, WIDTH, Frame, Picture, Row, inline
from tercet.report.charts.lines import tip
from tercet.report.charts.palette import BAD, TEXT
from tercet.report.evidence import Cell
from tercet.report.metric import Metric


def bars(frame: Frame, cells: Sequence[Cell], metric: Metric) -> Picture | None:
    """Draw a metric as bars, grouped by load, with intervals; None where nothing was measured."""
    rows: list[Row] = []
    for cell in cells:
        estimate = cell.get(metric)
        if estimate is None:
            continue
        rows.append(
            {
                "architecture": cell.architecture,
                "load": cell.place.load,
                "value": estimate.value,
                "low": estimate.value if estimate.low is None else estimate.low,
                "high": estimate.value if estimate.high is None else estimate.high,
                "invalid": cell.invalid,
                "tip": tip(cell, estimate, metric),
            }
        )
    if not rows:
        return None
    base = alt.Chart(inline(rows)).encode(
        x=alt.X(
            "load:O",
            title=frame.load_title,
            axis=alt.Axis(labelAngle=0, format="~g"),
            scale=alt.Scale(paddingInner=0.25, paddingOuter=0.1),
        ),
        xOffset=alt.XOffset("architecture:N", sort=frame.names),
        color=frame.color(),
    )
    y = alt.Y("value:Q", title=metric.axis, axis=alt.Axis(tickCount=5))
    bar = base.mark_bar(cornerRadiusTopLeft=2, cornerRadiusTopRight=2).encode(
        y=y, description="tip:N", opacity=alt.condition("datum.invalid", alt.value(0.3), alt.value(1.0))
    )
    whisker = base.mark_rule(aria=False, strokeWidth=1.3).encode(
        y=alt.Y("low:Q", title=metric.axis), y2="high:Q", color=alt.value(TEXT.light)
    )
    layers = [bar, whisker]
    if any(row["invalid"] for row in rows):
        cross = base.transform_filter("datum.invalid").mark_text(text="✕", dy=-8, fontWeight="bold", aria=False)
        layers.append(cross.encode(y=y, color=alt.value(BAD.light)))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
