"""Where a request's time goes: the mean of every hop, stacked."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tercet.report.charts.frame import WIDTH, Frame, Picture, Row, inline
from tercet.report.charts.palette import BAD
from tercet.report.charts.palette import HOPS as INKS
from tercet.report.evidence import Cell
from tercet.report.figures import milliseconds
from tercet.report.hop import DECODE, HOPS

STEP = 17
"""Height of one bar."""


def hop_order(cells: Sequence[Cell]) -> list[str]:
    """Return the hops that occur, in the order a request meets them."""
    return [hop for hop in HOPS if any(hop in cell.hops_ms for cell in cells)]


def hops(frame: Frame, cells: Sequence[Cell], *, before_first_token: bool) -> Picture | None:
    """Draw a bar per architecture and load; None where no timeline was recorded.

    `before_first_token` leaves out decoding, beside which the rest is often too small to see.
    """
    order = [hop for hop in hop_order(cells) if not (before_first_token and hop == DECODE)]
    rows: list[Row] = []
    for cell in cells:
        mine = {hop: value for hop, value in cell.hops_ms.items() if hop in order}
        what = f"{cell.architecture}, {cell.place.title(False)}"
        invalid = " (INVALID: no evidence)" if cell.invalid else ""
        rows += [
            {
                "architecture": cell.architecture,
                "load": cell.place.title(False),
                "hop": hop,
                "order": order.index(hop),
                "value": value,
                "end": sum(mine.values()),
                "crossed": cell.invalid and not i,
                "tip": f"{what}: {hop} {milliseconds(value)} ms{invalid}",
            }
            for i, (hop, value) in enumerate(mine.items())
        ]
    if not rows:
        return None
    scale = alt.Scale(domain=order, range=[INKS[hop].light for hop in order])
    legend = alt.Legend(orient="top", title=None) if frame.legend else None
    title = "Mean TTFT by hop (ms)" if before_first_token else "Mean E2E by hop (ms)"
    base = alt.Chart(inline(rows)).encode(
        y=alt.Y("architecture:N", sort=frame.names, title=None, axis=alt.Axis(labelLimit=96))
    )
    bars = base.mark_bar(height=STEP - 5).encode(
        x=alt.X("value:Q", stack="zero", title=title, axis=alt.Axis(tickCount=4)),
        color=alt.Color("hop:N", scale=scale, title=None, legend=legend),
        order="order:Q",
        description="tip:N",
    )
    layers = [bars]
    if any(row["crossed"] for row in rows):
        cross = base.transform_filter("datum.crossed").mark_text(text="✕", dx=9, fontWeight="bold", aria=False)
        layers.append(cross.encode(x=alt.X("end:Q", title=title), color=alt.value(BAD.light)))
    chart = alt.layer(*layers).properties(width=WIDTH - 40, height=alt.Step(STEP))
    header = alt.Header(labelAngle=0, labelOrient="top", labelAnchor="start", labelPadding=-6)
    loads = list(dict.fromkeys(cell.place.title(False) for cell in cells))
    picture: Picture = chart.facet(row=alt.Row("load:N", sort=loads, title=None, header=header), spacing=18)
    return picture
