"""Pictures: what is drawn, and that they stay readable and small."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from tercet.report.charts.frame import Frame, round_values
from tercet.report.charts.hops import hops
from tercet.report.charts.lines import lines
from tercet.report.charts.palette import INKS, SERIES, looks
from tercet.report.charts.pareto import front
from tercet.report.charts.ratio import ratio, ticks
from tercet.report.charts.render import to_svg
from tercet.report.charts.turns import turns
from tercet.report.evidence import Evidence
from tercet.report.gather import gather
from tercet.report.metric import SUCCESS, TTFT_FIRST, TTFT_LATER, TTFT_P50
from tercet.results.curve import Region

from .synthetic import comparison


def one_group(**settings: object) -> tuple[Evidence, Frame]:
    evidence = gather(comparison(workloads=("W1",), blocks=3, **settings))  # type: ignore[arg-type]
    return evidence, Frame(looks(evidence.labels), evidence.groups[0].load_kind)


def svg_of(picture: object) -> str:
    assert picture is not None
    svg = to_svg(picture, 'TTFT of "W1" & more')
    ElementTree.fromstring(svg)
    return svg


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_series_stands_out_from_the_page(theme: str) -> None:
    by_name = {ink.name: getattr(ink, theme) for ink in INKS}
    surface = by_name["surface"]
    assert all(contrast(getattr(ink, theme), surface) >= 3 for ink in SERIES)
    assert all(contrast(by_name[name], surface) >= 4.5 for name in ("text", "muted", "bad"))


def test_modes_keep_their_colours_and_no_two_look_alike() -> None:
    some, others = looks(["pd", "4E1A", "ppd"]), looks(["ppd", "5A", "pd", "x"])
    assert {look.name: look.ink for look in some}["pd"] == {look.name: look.ink for look in others}["pd"]
    assert len({(look.ink, look.shape) for look in others}) == 4
    assert len(looks([f"a{i}" for i in range(20)])) == 20


def test_colours_become_variables_and_what_results_say_is_escaped() -> None:
    evidence, frame = one_group()
    svg = svg_of(lines(frame, evidence.cells, TTFT_P50))
    assert "var(--s0)" in svg and "var(--muted)" in svg
    assert not re.search("#[0-9a-fA-F]{6}", svg)
    assert 'aria-label="TTFT of &quot;W1&quot; &amp; more"' in svg
    assert "replicated, 0.5 requests/s: " in svg
    assert len(svg) < 16_000
    renamed = replace(evidence.cells[0], architecture="<script>&")
    svg_of(lines(Frame(looks(["<script>&"]), "qps"), [renamed], TTFT_P50))


def test_points_that_are_no_evidence_are_crossed_out() -> None:
    evidence, frame = one_group(invalid=("pd", 8))
    svg = svg_of(lines(frame, evidence.cells, TTFT_P50))
    assert svg.count("✕") == 1
    assert "(INVALID: no evidence)" in svg
    by_turn = svg_of(turns(frame, evidence.cells))
    assert by_turn.count("✕") == 2, "turn 1 and later turns"
    for before_first_token in (True, False):
        by_hop = svg_of(hops(frame, evidence.cells, before_first_token=before_first_token))
        assert by_hop.count("✕") == 1 and "(INVALID: no evidence)" in by_hop
    sound = one_group()[0].cells
    assert "✕" not in svg_of(lines(frame, sound, TTFT_P50))
    assert "✕" not in svg_of(turns(frame, sound)) + svg_of(hops(frame, sound, before_first_token=True))


def test_intervals_of_turns_are_not_cut_off_at_the_top() -> None:
    evidence, frame = one_group()
    picture = turns(frame, evidence.cells)
    assert picture is not None
    tops = [float(top) for top in re.findall(r"'value', '[^}]*?'domain': \[[^,]*, ([0-9.]+)\]", str(picture.to_dict()))]
    found = [cell.get(metric) for cell in evidence.cells for metric in (TTFT_FIRST, TTFT_LATER)]
    assert tops and min(tops) >= max(each.high for each in found if each is not None and each.high is not None)


def test_small_ratios_keep_their_ticks() -> None:
    evidence, frame = one_group()
    curve = comparison(workloads=("W1",), blocks=1).curves[0]
    points = tuple(replace(point, ratio=0.2, low=0.15, high=0.3) for point in curve.points)
    regions = (Region(0.5, 2, None), Region(2, 8, curve.first))
    svg = svg_of(ratio(frame, replace(curve, points=points, regions=regions), evidence.tie_margin))
    assert ">0.25×<" in svg or ">0.125×<" in svg
    assert "var(--zone)" in svg
    none_shaded = replace(curve, points=points, regions=(Region(0.5, 8, curve.first),))
    assert "var(--zone)" not in svg_of(ratio(frame, none_shaded, evidence.tie_margin))
    assert ratio(frame, replace(curve, points=()), 0.03) is None


def test_one_load_is_drawn_too() -> None:
    evidence, frame = one_group(loads=(2,))
    svg_of(lines(frame, evidence.cells, SUCCESS))
    svg_of(turns(frame, evidence.cells))
    svg_of(ratio(frame, comparison(workloads=("W1",), loads=(2,), blocks=1).curves[0], 0.03))


def test_nothing_to_draw_is_none() -> None:
    evidence, frame = one_group(turns=1)
    assert turns(frame, evidence.cells) is None
    bare = [replace(cell, hops_ms={}, estimates={}) for cell in evidence.cells]
    assert hops(frame, bare, before_first_token=True) is None
    assert lines(frame, bare, TTFT_P50) is None


def test_axes_have_round_values() -> None:
    assert round_values(8, 300) == [10, 20, 50, 100, 200]
    assert round_values(2, 3e6) == [10.0**exponent for exponent in range(1, 7)]
    assert ticks(1.3) == [1 / 1.25, 1 / 1.1, 1.0, 1.1, 1.25]


def test_the_front_holds_what_nothing_beats() -> None:
    assert front([(1, 9), (2, 7), (2, 8), (3, 1), (2.5, 0.5)]) == [(1, 9), (2, 8), (3, 1)]
