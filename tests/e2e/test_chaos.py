"""Chaos, briefly: every kind of worker, whatever mode and fault come first; `benchmarks.chaos.run` does it for long."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.run import Report, chaos
from benchmarks.chaos.traffic import Tally


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_hangs_lies_or_stays_behind_while_workers_fail(tmp_path: Path) -> None:
    report = asyncio.run(chaos(tmp_path, 20.0, form="EEPPDDAA", clients=6, pause_s=0.1, seed=7))
    print("\n".join(report.lines()))
    assert report.problems() == [], report.lines() + report.tally.said
    assert report.tally.outcomes["ok"] >= 50
    assert any(report.done[fault.__name__] for fault in FAULTS)


def test_a_report_sees_what_is_wrong() -> None:
    good = Tally()
    for outcome in ("ok", "left", "broken stream", "504"):
        good.add(outcome, 1.0)
    flat = [50_000_000] * 60
    assert Report(good, Counter(), flat, {"A0": 0.0}, {"handoff_leaks_total": 0.0}).problems() == []
    bad = Tally()
    for outcome in ("wrong", "hang", "502", "no answer"):
        bad.add(outcome, 1.0, "words")
    growing = [50_000_000 + i * 1_000_000 for i in range(60)]
    report = Report(bad, Counter(), growing, {"A0": 3.0}, {"handoff_leaks_total": 1.0})
    problems = " | ".join(report.problems())
    for words in (
        "1 x wrong",
        "1 x hang",
        "1 x 502",
        "1 x no answer",
        "A0 keeps 3 blocks",
        "lost sight",
        "the router grew",
    ):
        assert words in problems
