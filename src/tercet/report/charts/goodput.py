"""Goodput against load: one line an architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from tercet.report.charts.frame import HEIGHT, WIDTH, Frame, Picture, Row, inline
from tercet.report.charts.palette import looks


def goodput_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], load_kind: str, asked: float, title: str
) -> Picture:
    """Draw (load, value) points of each architecture; a dashed rule stands at the load that was asked about."""
    rows: list[Row] = [
        {"architecture": name, "load": load, "value": value, "tip": f"{name} at {load:g}: {value:.3g}"}
        for name, points in curves.items()
        for load, value in points
    ]
    frame = Frame(looks(list(curves)), load_kind, legend=True)
    top = max(row["value"] for row in rows) or 1.0
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, top * 1.04]), axis=alt.Axis(tickCount=5))
    base = alt.Chart(inline(rows)).encode(x=frame.x(sorted({row["load"] for row in rows})), y=y, color=frame.color())
    rule = alt.Chart(inline([{"load": asked}])).mark_rule(strokeDash=[4, 3], aria=False).encode(x="load:Q")
    points = base.mark_point(filled=True, size=62, opacity=1).encode(shape=frame.shape(), description="tip:N")
    return alt.layer(rule, base.mark_line(strokeWidth=2, aria=False), points).properties(
        width=2 * WIDTH, height=2 * HEIGHT
    )
