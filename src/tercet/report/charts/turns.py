"""TTFT of first turns (solid) against later turns (dashed)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tercet.report.charts.frame import HEIGHT, WIDTH, Frame, Picture, Row, inline, value_axis
from tercet.report.charts.lines import invalid_marks, tip
from tercet.report.charts.palette import SURFACE
from tercet.report.evidence import Cell
from tercet.report.metric import TTFT_FIRST, TTFT_LATER

KINDS = {TTFT_FIRST: "turn 1", TTFT_LATER: "later turns"}


def turns(frame: Frame, cells: Sequence[Cell]) -> Picture | None:
    """Draw both kinds of turns against load; None where no conversation had a later turn."""
    rows: list[Row] = []
    for cell in cells:
        for metric, kind in KINDS.items():
            if (estimate := cell.get(metric)) is not None:
                rows.append(
                    {
                        "architecture": cell.architecture,
                        "load": cell.place.load,
                        "kind": kind,
                        "value": estimate.value,
                        "low": estimate.value if estimate.low is None else estimate.low,
                        "high": estimate.value if estimate.high is None else estimate.high,
                        "invalid": cell.invalid,
                        "tip": tip(cell, estimate, metric, kind),
                    }
                )
    if not any(row["kind"] == "later turns" for row in rows):
        return None
    y = value_axis("Median TTFT (ms)", [row[end] for row in rows for end in ("low", "value", "high")])
    dash = alt.StrokeDash(
        "kind:N",
        scale=alt.Scale(domain=list(KINDS.values()), range=[[1, 0], [5, 4]]),
        title=None,
        legend=alt.Legend(orient="top") if frame.legend else None,
    )
    base = alt.Chart(inline(rows)).encode(x=frame.x([row["load"] for row in rows]), color=frame.color(), y=y)
    whisker = base.mark_rule(strokeWidth=1.1, aria=False, clip=True, opacity=0.6).encode(
        y=alt.Y("low:Q", title="Median TTFT (ms)"), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2, aria=False).encode(strokeDash=dash)
    valid = base.transform_filter("!datum.invalid")
    first = valid.transform_filter("datum.kind == 'turn 1'").mark_point(filled=True, size=52, opacity=1)
    later = valid.transform_filter("datum.kind != 'turn 1'").mark_point(
        filled=False, fill=SURFACE.light, size=46, opacity=1, strokeWidth=1.6
    )
    points = [layer.encode(shape=frame.shape(), description="tip:N") for layer in (first, later)]
    if any(row["invalid"] for row in rows):
        points += invalid_marks(base, frame)
    return alt.layer(whisker, line, *points).properties(width=WIDTH, height=HEIGHT)
