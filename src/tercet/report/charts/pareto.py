"""Speed seen by a user against output per device: what is up and to the right is better on both counts."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tercet.report.charts.frame import HEIGHT, WIDTH, Frame, Picture, Row, inline
from tercet.report.charts.palette import BAD, FRONT, MUTED
from tercet.report.evidence import Cell
from tercet.report.metric import DEVICE_RATE, USER_RATE


def pareto(frame: Frame, cells: Sequence[Cell]) -> Picture | None:
    """Draw every load as a point, joined by architecture, with the front of the valid ones; None without any."""
    rows: list[Row] = []
    for cell in cells:
        user, device = cell.get(USER_RATE), cell.get(DEVICE_RATE)
        if user is None or device is None:
            continue
        rows.append(
            {
                "architecture": cell.architecture,
                "load": cell.place.load,
                "label": f"{cell.place.load:g}",
                "user": user.value,
                "device": device.value,
                "invalid": cell.invalid,
                "tip": f"{cell.architecture}, {cell.place.title(False)}: {user.value:.1f} tok/s/user, "
                f"{device.value:.1f} tok/s/device" + (" (INVALID: no evidence)" if cell.invalid else ""),
            }
        )
    if not rows:
        return None
    x = alt.X("user:Q", title=USER_RATE.axis, scale=alt.Scale(zero=False, padding=18), axis=alt.Axis(tickCount=5))
    y = alt.Y("device:Q", title=DEVICE_RATE.axis, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    best = front([(row["user"], row["device"]) for row in rows if not row["invalid"]])
    layers: list[alt.Chart] = []
    if len(best) > 1:
        edge = [{"user": user, "device": device} for user, device in best]
        layers.append(
            alt.Chart(inline(edge))
            .mark_line(color=FRONT.light, strokeWidth=7, interpolate="step-before", opacity=0.55, aria=False)
            .encode(x=x, y=y)
        )
    base = alt.Chart(inline(rows)).encode(x=x, y=y, color=frame.color())
    layers.append(base.mark_line(strokeWidth=1.4, opacity=0.7, aria=False).encode(order="load:Q"))
    layers.append(
        base.mark_point(filled=True, size=62, opacity=1)
        .encode(shape=frame.shape(), description="tip:N")
        .transform_filter("!datum.invalid")
    )
    layers.append(
        base.mark_text(dx=8, dy=-7, align="left", fontSize=9.5, aria=False).encode(
            text="label:N", color=alt.value(MUTED.light)
        )
    )
    if any(row["invalid"] for row in rows):
        layers.append(
            base.transform_filter("datum.invalid")
            .mark_text(text="✕", fontSize=12, fontWeight="bold")
            .encode(color=alt.value(BAD.light), description="tip:N")
        )
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats on both counts, by rising first coordinate."""
    found: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found[::-1]
