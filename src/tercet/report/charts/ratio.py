"""One architecture over another against load, on a logarithmic scale, with the loads where neither is better shaded."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tercet.report.charts.frame import HEIGHT, WIDTH, Frame, Picture, Row, inline
from tercet.report.charts.palette import AXIS, GRID, MUTED, ZONE
from tercet.results.curve import RatioCurve

WIDEST = 32.0
"""A ratio beyond this is drawn at the edge: one wild interval must not flatten the rest."""

ROOM = 1.3
"""The axis goes this much further, in logarithms: room for the words at its ends."""

LEAST_REACH = 1.25
"""The axis spans at least from 1/1.25 to 1.25, so that noise around 1 does not look like a difference."""


def ratio(frame: Frame, curve: RatioCurve, tie_margin: float) -> Picture | None:
    """Draw a curve with its intervals, the undecided loads and the band of a tie; None without points."""
    if not curve.points:
        return None
    rows = [_row(curve, i) for i in range(len(curve.points))]
    loads = [point.load for point in curve.points]
    reach = min(max(LEAST_REACH, *(max(row["high"], 1 / row["low"]) for row in rows)), WIDEST)
    x = frame.x(loads)
    axis = alt.Axis(values=ticks(reach), labelExpr="format(datum.value, '.3~g') + '×'")
    scale = alt.Scale(type="log", domain=[reach**-ROOM, reach**ROOM], clamp=True, nice=False)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=f"{curve.first} / {curve.second}", scale=scale, axis=axis)

    layers: list[alt.Chart] = []
    if zones := _zones(curve) if len(loads) > 1 else []:
        undecided = alt.Chart(inline(zones)).mark_rect(color=ZONE.light, opacity=1, aria=False)
        layers.append(undecided.encode(x=x, x2="end:Q"))
    band = alt.Chart(inline([{"bottom": 1 / (1 + tie_margin), "top": 1 + tie_margin, "one": 1.0}]))
    layers.append(band.mark_rect(color=GRID.light, opacity=1, aria=False).encode(y=y("bottom"), y2="top:Q"))
    layers.append(band.mark_rule(color=AXIS.light, strokeWidth=1.2, aria=False).encode(y=y("one")))
    base = alt.Chart(inline(rows)).encode(x=x, color=frame.color())
    if len(loads) > 1:
        layers.append(base.mark_line(strokeWidth=2, aria=False, clip=True).encode(y=y("value")))
    layers.append(base.mark_rule(strokeWidth=1.4, aria=False, clip=True).encode(y=y("low"), y2="high:Q"))
    point = base.mark_point(filled=True, size=70, opacity=1)
    layers.append(point.encode(y=y("value"), shape=frame.shape(), description="tip:N"))
    return alt.layer(*layers, *_directions(curve)).properties(width=WIDTH, height=HEIGHT)


def ticks(reach: float) -> list[float]:
    """Return round ratios up to `reach` on both sides of one, few enough to read."""
    steps: Sequence[float] = (1.1, 1.25, 1.5) if reach < 1.7 else (1.5, 2.0, 3.0) if reach < 4 else (2.0, 4.0, 8.0)
    steps = (4.0, 16.0) if reach >= 10 else steps
    found = [step for step in steps if step <= reach]
    return sorted([1.0, *found, *(1 / step for step in found)])


def _directions(curve: RatioCurve) -> list[alt.Chart]:
    """Return the two words that say which way is whose."""
    above, below = (curve.second, curve.first) if curve.lower_is_better else (curve.first, curve.second)
    return [
        alt.Chart(inline([{}]))
        .mark_text(text=text, align="right", fontSize=10.5, color=MUTED.light, aria=False)
        .encode(x=alt.value(WIDTH - 4), y=alt.value(place))
        for text, place in ((f"↑ {above} better", 9), (f"↓ {below} better", HEIGHT - 8))
    ]


def _zones(curve: RatioCurve) -> list[Row]:
    return [
        {"load": region.start, "end": region.end}
        for region in curve.regions
        if region.better is None and region.end > region.start
    ]


def _row(curve: RatioCurve, i: int) -> Row:
    point = curve.points[i]
    outcome = "decided" if curve.decided(point.load) else "undecided"
    if point.low == point.high:
        outcome = "not judged"
    return {
        "architecture": curve.first,
        "load": point.load,
        "value": point.ratio,
        "low": max(point.low, 1e-6),
        "high": point.high,
        "tip": f"{curve.first} / {curve.second} at {point.load:g}: {point.ratio:.2f}× "
        f"({point.low:.2f} to {point.high:.2f}), {outcome}",
    }
