"""What every picture shares: its size, its scales, its axes and its colours by architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from tercet.report.charts.palette import AXIS, GRID, MUTED, TEXT, Look

WIDTH = 292
HEIGHT = 190
"""Of the plot alone, in CSS pixels: with its axis a panel is 350 wide, what a phone shows without shrinking it."""

LOG_FROM = 8.0
"""Latencies that span more than this factor are drawn on a logarithmic scale."""

LOG_ROOM = 1.25
"""Room above and below what a logarithmic axis shows, as a factor."""

FONT = "Helvetica Neue, Helvetica, Arial, sans-serif"

Row = dict[str, Any]
Picture = alt.LayerChart | alt.FacetChart | alt.ConcatChart
"""What a kind of picture returns."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A panel's surroundings. `legend` draws one inside (for files; the page has its own)."""

    looks: tuple[Look, ...]
    load_kind: str
    legend: bool = False

    @property
    def names(self) -> list[str]:
        """Return the architectures in the order of their legend."""
        return [look.name for look in self.looks]

    def color(self) -> alt.Color:
        """Return the colour channel by architecture."""
        scale = alt.Scale(domain=self.names, range=[look.ink.light for look in self.looks])
        return alt.Color("architecture:N", scale=scale, title=None, legend=self._legend())

    def shape(self) -> alt.Shape:
        """Return the shape channel by architecture."""
        scale = alt.Scale(domain=self.names, range=[look.shape for look in self.looks])
        return alt.Shape("architecture:N", scale=scale, title=None, legend=self._legend())

    def x(self, loads: Sequence[float]) -> alt.X:
        """Return the load axis: ticks at the measured loads, logarithmic when they span a factor of four or more."""
        low, high = min(loads), max(loads)
        if low == high:
            return alt.X("load:O", title=self.load_title, axis=alt.Axis(labelAngle=0))
        kind: Any = "log" if low > 0 and high / low >= 4 else "linear"
        axis = alt.Axis(values=list(loads), format="~g", labelOverlap="greedy", grid=False)
        return alt.X(
            "load:Q", title=self.load_title, axis=axis, scale=alt.Scale(type=kind, nice=False, zero=False, padding=14)
        )

    @property
    def load_title(self) -> str:
        """Return the load axis's title with its unit."""
        return "Load (requests/s)" if self.load_kind == "qps" else "Load (requests at once)"

    def _legend(self) -> alt.Legend | None:
        return alt.Legend(orient="top", symbolSize=70) if self.legend else None


def inline(rows: Sequence[Row]) -> alt.InlineData:
    """Return rows as a chart's data."""
    return alt.InlineData(values=list(rows))


def value_axis(title: str, values: Sequence[float], *, field: str = "value", unit_is_share: bool = False) -> alt.Y:
    """Return a y axis that fits positive `values`: from zero, or logarithmic when they span more than LOG_FROM."""
    positive = [value for value in values if value > 0]
    if unit_is_share:
        return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(tickCount=5))
    if positive and len(positive) == len(values) and max(positive) / min(positive) > LOG_FROM:
        low, high = min(positive) / LOG_ROOM, max(positive) * LOG_ROOM
        axis = alt.Axis(values=round_values(low, high), format=",~g" if high < 1e5 else "~s")
        scale = alt.Scale(type="log", domain=[low, high], nice=False)
        return alt.Y(f"{field}:Q", title=title, scale=scale, axis=axis)
    top = max(positive, default=1.0)
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, top * 1.04]), axis=alt.Axis(tickCount=5))


def round_values(low: float, high: float) -> list[float]:
    """Return round numbers between `low` and `high` for a logarithmic axis, few enough to read."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**exponent for exponent in exponents for step in steps]
        inside = [value for value in found if low <= value <= high]
        if len(inside) <= 7:
            break
    return inside


def configured(chart: Any) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart in the house's style."""
    spec: dict[str, Any] = chart.to_dict()
    axis = {
        "aria": False,
        "labelColor": MUTED.light,
        "titleColor": MUTED.light,
        "gridColor": GRID.light,
        "domainColor": AXIS.light,
        "tickColor": AXIS.light,
        "labelFontSize": 11,
        "titleFontSize": 11.5,
        "titleFontWeight": 500,
        "titlePadding": 8,
        "tickSize": 4,
    }
    spec["config"] = {
        "font": FONT,
        "background": None,
        "view": {"stroke": None},
        "axis": axis,
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "aria": False,
            "labelColor": TEXT.light,
            "titleColor": MUTED.light,
            "labelFontSize": 12,
            "titleFontSize": 11,
        },
        "header": {"labelColor": TEXT.light, "titleColor": MUTED.light, "labelFontSize": 11.5},
        "title": {"color": TEXT.light, "fontSize": 13, "fontWeight": 600, "anchor": "start", "offset": 8},
    }
    return spec
