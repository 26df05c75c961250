"""Where one architecture takes over."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tercet.compare.cell import cells
from tercet.compare.crossover import LogRatio, conclude, curves, invert
from tercet.compare.statistics import paired_logs
from tercet.compare.verdict import judge
from tercet.results.document import TrafficRecord
from tercet.results.record import RunRecord

from ..results.samples import architecture, request, run

NAMES = ("A", "B")
LIMIT = math.log(1.03)


def points(levels: dict[float, float], half: float = 0.025) -> list[LogRatio]:
    """Return a log-ratio per load, each with an interval of `half` to both sides."""
    return [LogRatio(load, level, half) for load, level in levels.items()]


def concluded(levels: dict[float, float], half: float = 0.025) -> tuple[str, str]:
    ratios = points(levels, half)
    return conclude(invert(ratios, NAMES, LIMIT), ratios)


def test_a_crossover_is_bracketed() -> None:
    ratios = points({1: -0.5, 2: -0.25, 4: 0.25, 8: 0.5})
    first, middle, last = invert(ratios, NAMES, LIMIT)
    assert (first.better, middle.better, last.better) == ("A", None, "B")
    assert (first.start, last.end) == (1, 8)
    assert first.end == middle.start < math.sqrt(8) < middle.end == last.start
    # Half way between 2 and 4 on a logarithmic scale; as far to the left as to the right.
    assert first.end * last.start == pytest.approx(8)
    outcome, sentence = conclude((first, middle, last), ratios)
    assert outcome == "crossover"
    assert sentence == f"A better up to {first.end:.3g}, B better from {last.start:.3g}, undecided between"


def test_the_regions_end_where_the_interval_reaches_zero() -> None:
    ratios = [LogRatio(1, -0.4, 0.1), LogRatio(10, 0.6, 0.3)]
    first, _, last = invert(ratios, NAMES, LIMIT)
    for edge in (first.end, last.start):
        t = math.log(edge) / math.log(10)
        assert abs(-0.4 + t) == pytest.approx(0.1 + 0.2 * t)


def test_between_two_undecided_loads_nothing_is_decided() -> None:
    assert [region.better for region in invert(points({1: -0.2, 2: -0.2}, half=0.3), NAMES, LIMIT)] == [None]


def test_the_tie_margin_widens_what_is_undecided() -> None:
    ratios = points({1: -0.4, 2: 0.4}, half=1e-6)
    first, _, last = invert(ratios, NAMES, LIMIT)
    for edge, level in ((first.end, -LIMIT), (last.start, LIMIT)):
        assert 0.8 * math.log2(edge) - 0.4 == pytest.approx(level, abs=1e-4)


def test_no_crossover_in_range() -> None:
    assert concluded({1: -0.3, 2: -0.4, 4: -0.5}) == ("none", "none in this range: A better from 1 to 4")
    assert concluded({1: 0.3, 2: 0.4}) == ("none", "none in this range: B better from 1 to 2")


def test_a_crossover_beyond_the_grid_is_told_where_the_trend_leads_there() -> None:
    outcome, sentence = concluded({1: -0.6, 2: -0.4, 4: -0.2})
    assert outcome == "beyond"
    assert sentence == ("none in this range: A better from 1 to 4; the trend leads to one beyond the grid, near 8")
    assert concluded({2: 0.2, 4: 0.4})[1].endswith("near 1")
    assert concluded({1: -0.61, 2: -0.6})[0] == "none", "too far to tell"


def test_two_loads_that_may_as_well_be_equal_make_no_trend() -> None:
    assert concluded({1: -0.3, 2: -0.15}, half=0.05)[0] == "beyond"
    assert concluded({1: -0.3, 2: -0.15}, half=0.11)[0] == "none"


def test_the_same_lead_at_every_load_hardly_ever_makes_a_trend() -> None:
    rng = np.random.default_rng(5)
    told = 0
    for _ in range(200):
        found = [paired_logs(list(rng.normal(-0.15, 0.1, 5))) for _ in range(4)]
        ratios = [LogRatio(2.0**i, p.mean, p.half) for i, p in enumerate(found) if p is not None]
        told += conclude(invert(ratios, NAMES, LIMIT), ratios)[0] == "beyond"
    assert told <= 20


def test_too_noisy_to_tell() -> None:
    assert concluded({1: -0.3, 2: 0.3}, half=2.0) == ("undecided", "undecided from 1 to 2")


def test_one_sided_evidence_is_no_crossover() -> None:
    outcome, sentence = concluded({1: -0.5, 2: 0.0, 4: 0.0, 8: 0.0})
    assert outcome == "none"
    assert sentence.startswith("none in this range: A better from 1 to 1.")
    assert sentence.endswith(", undecided elsewhere")


def test_several_changes_are_listed() -> None:
    outcome, sentence = concluded({1: -0.5, 2: 0.5, 4: -0.5})
    assert outcome == "crossover"
    assert sentence.count("A better") == 2 and sentence.count("B better") == 1


def test_a_single_load_is_a_region_of_its_own() -> None:
    ratios = points({2: -0.5})
    assert conclude(invert(ratios, NAMES, LIMIT), ratios) == ("none", "none in this range: A better at 2")


def test_the_interval_covers_the_true_crossover_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(400):
        found = [paired_logs(list(rng.normal(level, 0.1, 5))) for level in (-0.3, 0.3)]
        ratios = [LogRatio(load, p.mean, p.half) for load, p in zip((1.0, 4.0), found, strict=True) if p is not None]
        here = [region.better for region in invert(ratios, NAMES, 0.0) if region.start <= 2.0 <= region.end]
        missed += here != [None]
    assert missed <= 30


def sweep(ttfts: dict[str, dict[float, float]]) -> list[RunRecord]:
    return [
        run(label, (request("c0", 1, ttft * (1 + 0.001 * block), 0.01),), qps=load, number=block)
        for label, by_load in ttfts.items()
        for load, ttft in by_load.items()
        for block in range(3)
    ]


def test_curves_are_made_of_runs() -> None:
    runs = sweep({"pd": {1.0: 0.2, 4.0: 0.1}, "ppd": {1.0: 0.1, 4.0: 0.2}})
    traffic = (TrafficRecord("W1", 1.0, 10, 5, 1, 0.0, "poisson", 1),)
    found = {
        curve.metric: curve
        for curve in curves(cells(runs, traffic, [architecture("pd"), architecture("ppd")]), 0.03, ("ttft",))
    }
    ttft = found["ttft"]
    assert (ttft.first, ttft.second, ttft.outcome) == ("pd", "ppd", "crossover")
    assert [point.load for point in ttft.points] == [1.0, 4.0]
    assert [point.ratio for point in ttft.points] == pytest.approx([2.0, 0.5])
    assert [region.better for region in ttft.regions] == ["ppd", None, "pd"]
    assert found["throughput"].sentence == "undecided from 1 to 4"


@pytest.mark.parametrize("labels", [("pd", "ppd"), ("pd", "ppd", "replicated")])
def test_a_curve_decides_at_a_measured_load_what_the_verdict_does_and_no_more(labels: tuple[str, ...]) -> None:
    rng = np.random.default_rng(6)
    primary = ("ttft", "e2e")
    traffic = (TrafficRecord("W1", 1.0, 10, 5, 1, 0.0, "poisson", 1),)
    decided = 0
    for _ in range(100):
        runs = [
            run(label, (request("c0", 1, 0.1 * math.exp(rng.normal(0, 0.1)), 0.01),), qps=load, number=block)
            for label in labels
            for load in (1.0, 2.0, 4.0)
            for block in range(4)
        ]
        rows = cells(runs, traffic, [architecture(label) for label in labels])
        pairs = {(c.first, c.second): c for c in curves(rows, 0.03, primary) if c.metric == "ttft"}
        for verdict in (
            v for cell in rows for v in judge(cell, primary=primary, tie_margin=0.03) if v.metric == "ttft"
        ):
            for pair, curve in pairs.items():
                both = set(pair) <= set(verdict.leaders)
                if len(labels) == 2:
                    assert curve.decided(verdict.load) != both
                decided += both and curve.decided(verdict.load)
    assert decided <= 2, "two that lead together may differ, where both are too near a third"
