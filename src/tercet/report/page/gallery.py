"""The pictures of one evidence, as sections of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from tercet.report.charts.bars import bars
from tercet.report.charts.frame import Frame
from tercet.report.charts.hops import hop_order, hops
from tercet.report.charts.lines import lines
from tercet.report.charts.palette import HOPS as HOP_INKS
from tercet.report.charts.palette import Look, looks
from tercet.report.charts.pareto import pareto
from tercet.report.charts.ratio import ratio
from tercet.report.charts.render import to_svg
from tercet.report.charts.turns import turns
from tercet.report.evidence import Cell, Evidence
from tercet.report.figures import milliseconds
from tercet.report.metric import DEVICE_RATE, GOODPUT, TOKENS, TTFT_FIRST, TTFT_LATER, USER_RATE, Metric
from tercet.report.page.grids import figure_grid, improvement_grid, ratio_grid
from tercet.report.page.parts import Grid, Key, Panel, Section
from tercet.results.curve import Improvement, RatioCurve
from tercet.results.slo import Slo

Draw = Callable[[Frame, Sequence[Cell]], Any]


class Gallery:
    """Draws sections; each of them is None where there is nothing to draw.

    `max_panels` bounds the pictures of a section: further figures are in its tables and the CSV files alone.
    """

    def __init__(self, evidence: Evidence, max_panels: int) -> None:
        self._evidence = evidence
        self._max_panels = max_panels
        self._looks = looks(evidence.labels)
        self.keys = tuple(_key(look) for look in self._looks)

    def against_load(
        self, anchor: str, title: str, nav: str, about: str, metrics: Sequence[Metric], more: Sequence[Metric] = ()
    ) -> Section | None:
        """Return a section with one picture a workload and metric; `more` metrics are only in its tables."""
        panels = self._panels([(metric.title, _lines_of(metric)) for metric in metrics])
        if not panels:
            return None
        return Section(anchor, title, nav, (about,), self.keys, panels, grids=self._grids((*metrics, *more)))

    def bars(self) -> Section | None:
        """Return throughput side by side, per device where the devices differ."""
        unequal = self._evidence.unequal
        metric = DEVICE_RATE if unequal else TOKENS
        panels = self._panels([(metric.title, lambda frame, cells: bars(frame, cells, metric))])
        words = ("Per device: the architectures have unequal numbers of them.",) if unequal else ()
        return Section("bars", "Throughput side by side", "Bars", words, self.keys, panels) if panels else None

    def ratios(self, curves: Sequence[RatioCurve]) -> Section | None:
        """Return the ratios and where one architecture takes over from another."""
        if not curves:
            return None
        words = (
            "The paired ratio of two architectures over the same blocks with its 95% interval, on a logarithmic scale. "
            "Shaded from top to bottom: loads at which neither is better beyond chance, by the verdict's own rule. The "
            f"band around 1× is a tie (within {self._evidence.tie_margin:.0%}).",
        )
        panels = tuple(islice(self._ratio_panels(curves), self._max_panels))
        grids = (ratio_grid(curves),)
        return Section("crossover", "Who takes over where", "Crossover", words, self.keys, panels, grids=grids)

    def turns(self, improvements: Sequence[Improvement]) -> Section | None:
        """Return first against later turns, and who betters whom by how much."""
        panels = self._panels([("Turn 1 and later turns", turns)])
        grids = (improvement_grid(improvements),) if improvements else ()
        if not panels and not grids:
            return None
        words = ("Solid, filled points: turn 1. Dashed, hollow points: later turns, whose prefix may be cached.",)
        grids = (*grids, *self._grids((TTFT_FIRST, TTFT_LATER) if panels else ()))
        return Section("turns", "Turn 1 against later turns", "Turns", words, self.keys, panels, grids=grids)

    def pareto(self) -> Section | None:
        """Return the speed a user sees against the output per device."""
        panels = self._panels([("Users and devices", pareto)])
        if not panels:
            return None
        words = (
            "A user sees 1000 / median TPOT. Up and to the right is better on both counts. Small numbers are loads; "
            "the thick grey line joins what nothing beats.",
        )
        grids = self._grids((USER_RATE, DEVICE_RATE))
        return Section("pareto", "Speed for users, output per device", "Pareto", words, self.keys, panels, grids=grids)

    def hops(self) -> Section | None:
        """Return where a request's time goes."""
        draws: list[tuple[str, Draw]] = [
            ("Until the first token", lambda frame, cells: hops(frame, cells, before_first_token=True)),
            ("Whole request", lambda frame, cells: hops(frame, cells, before_first_token=False)),
        ]
        panels = self._panels(draws)
        if not panels:
            return None
        keys = tuple(Key(hop, HOP_INKS[hop].name, "bar") for hop in hop_order(self._evidence.cells))
        words = (
            "Mean time in each hop, as the servers tell; 'other' is what none of them accounts for before the first "
            "token, such as the network and the router. Decoding is from the first token to the last.",
        )
        return Section("hops", "Where the time goes", "Hops", words, keys, panels)

    def goodput(self) -> Section | None:
        """Return the requests a second that kept the SLO."""
        panels = self._panels([("Goodput", _lines_of(GOODPUT))])
        if not panels:
            return None
        limits = {group.workload: slo_text(slo) for group, slo in self._evidence.slos.items()}
        asked = (
            tuple(f"{workload}: {text}" for workload, text in limits.items())
            if len(set(limits.values())) > 1
            else tuple(dict.fromkeys(limits.values()))
        )
        words = (f"Requests a second that were answered whole and within the SLO: {self._evidence.slo_source}.",)
        grids = self._grids((GOODPUT,))
        return Section("goodput", "Goodput", "Goodput", words, self.keys, panels, asked, grids)

    def _panels(self, draws: Sequence[tuple[str, Draw]]) -> tuple[Panel, ...]:
        several = len(self._evidence.groups) > 1
        found: list[Panel] = []
        for group in self._evidence.groups:
            frame = Frame(self._looks, group.load_kind)
            for title, draw in draws:
                chart = draw(frame, self._evidence.of(group)) if len(found) < self._max_panels else None
                if chart is not None:
                    caption = f"{group.workload}: {title}" if several else title
                    found.append(Panel(caption, to_svg(chart, caption)))
        return tuple(found)

    def _ratio_panels(self, curves: Sequence[RatioCurve]) -> Iterator[Panel]:
        for curve in curves:
            chart = ratio(Frame(self._looks, curve.load_kind), curve, self._evidence.tie_margin)
            if chart is not None:
                caption = f"{curve.workload}: {curve.label}, {curve.first} over {curve.second}"
                yield Panel(caption, to_svg(chart, caption))

    def _grids(self, metrics: Sequence[Metric]) -> tuple[Grid, ...]:
        return tuple(grid for metric in metrics if (grid := figure_grid(self._evidence, metric)) is not None)


def _lines_of(metric: Metric) -> Draw:
    return lambda frame, cells: lines(frame, cells, metric)


def _key(look: Look) -> Key:
    return Key(look.name, look.ink.name, look.shape)


def slo_text(slo: Slo) -> str:
    """Write what goodput asks for."""
    limits = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms))
    asked = ", ".join(f"{name} within {milliseconds(limit)} ms" for name, limit in limits if limit is not None)
    return asked or "a whole answer"
