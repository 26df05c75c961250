"""What ppd gains, per workload."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tercet.compare.cell import cells
from tercet.compare.improvement import improvements, stratified
from tercet.results.document import TrafficRecord

from ..results.samples import architecture, failed, request, run

TRAFFIC = (TrafficRecord("W1", 1.0, 10, 5, 2, 0.0, "poisson", 2),)


def test_savings_are_averaged_over_loads_within_blocks() -> None:
    later = {("pd", 1.0): 0.4, ("ppd", 1.0): 0.1, ("pd", 2.0): 0.4, ("ppd", 2.0): 0.2}
    runs = [
        run(
            label,
            (request("c0", 1, 0.5, 0.01), request("c0", 2, ttft * (1 + 0.01 * block * (label == "ppd")), 0.01)),
            qps=load,
            number=block,
        )
        for (label, load), ttft in later.items()
        for block in range(3)
    ]
    found = improvements(
        cells(runs, TRAFFIC, [architecture("pd"), architecture("ppd")]), [*map(architecture, ("pd", "ppd"))]
    )
    assert [(each.metric, each.first, each.second) for each in found] == [
        ("ttft_later", "ppd", "pd"),
        ("e2e", "ppd", "pd"),
    ]
    saved = found[0]
    # 75% and 50% at the two loads, a little less in later blocks.
    assert saved.mean == pytest.approx(0.625, abs=0.01)
    assert (saved.minimum, saved.maximum) == pytest.approx((0.495, 0.7475))
    assert saved.low is not None and saved.high is not None
    assert saved.low < saved.mean < saved.high
    assert saved.high - saved.low < 0.02
    assert (saved.loads, saved.blocks) == (2, 3)


def test_one_block_has_no_interval_and_losses_are_negative() -> None:
    ttfts = {"ppd": 0.3, "replicated": 0.2}
    runs = [
        run(label, (request("c0", 1, 0.5, 0.01), request("c0", 2, ttft, 0.01)), number=block)
        for label, ttft in ttfts.items()
        for block in range(1)
    ]
    records = [architecture(label) for label in ttfts]
    (later, _) = improvements(cells(runs, TRAFFIC, records), records)
    assert later.mean == pytest.approx(-0.5)
    assert (later.low, later.high) == (None, None)


def test_nothing_is_said_of_other_modes() -> None:
    runs = [run(label, (request("c0", 1, 0.5, 0.01),), number=0) for label in ("pd", "replicated")]
    records = [architecture("pd"), architecture("replicated")]
    assert improvements(cells(runs, TRAFFIC, records), records) == ()


def test_loads_have_equal_weight_whatever_their_blocks() -> None:
    mean, half = stratified([[0.1, 0.3], [0.5, 0.5, 0.5, 0.5, 0.5]])
    assert mean == pytest.approx(0.35)
    assert half is None, "one degree of freedom tells nothing"
    assert stratified([[0.25, 0.25], [0.5, 0.5]]) == (0.375, 0.0)
    assert stratified([[0.25], [0.5, 0.5]]) == (0.375, None)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(1000):
        mean, half = stratified([list(rng.normal(level, 0.1, 4)) for level in (0.2, 0.4, 0.6)])
        assert half is not None
        missed += abs(mean - 0.4) > half
    assert 25 <= missed <= 80


def test_blocks_that_count_at_some_loads_alone_count_there() -> None:
    runs = [
        replace(
            run(
                label, (request("c0", 1, 0.5, 0.01), request("c0", 2, ttft + 0.01 * block, 0.01)), qps=qps, number=block
            ),
            invalid_reasons=("late",) if (qps, block) == (2.0, 1) else (),
        )
        for label, ttft in (("pd", 0.4), ("ppd", 0.1))
        for qps in (1.0, 2.0)
        for block in range(4)
    ]
    records = [architecture(label) for label in ("pd", "ppd")]
    (later, _) = improvements(cells(runs, TRAFFIC, records), records)
    assert (later.loads, later.blocks) == (2, 4)
    assert later.low is not None


def test_a_load_at_which_one_dropped_work_shows_no_gain() -> None:
    later = {("pd", 1.0): 0.4, ("ppd", 1.0): 0.3, ("pd", 2.0): 0.4, ("ppd", 2.0): 0.1}
    runs = [
        run(
            label,
            (
                request("c0", 1, 0.5, 0.01),
                request("c0", 2, ttft, 0.01),
                # At the higher load ppd does not answer this one.
                failed(request("c1", 1, 0.5, 0.01)) if (label, load) == ("ppd", 2.0) else request("c1", 1, 0.5, 0.01),
            ),
            qps=load,
            number=block,
        )
        for (label, load), ttft in later.items()
        for block in range(3)
    ]
    records = [architecture("pd"), architecture("ppd")]
    later_turns, _ = improvements(cells(runs, TRAFFIC, records), records)
    assert later_turns.loads == 1 and later_turns.mean == pytest.approx(0.25)
    dropping = [each for each in runs if each.load == 2.0]
    assert improvements(cells(dropping, TRAFFIC, records), records) == ()
