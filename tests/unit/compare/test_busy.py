"""Busy shares from counters."""

from __future__ import annotations

from tercet.compare.busy import BusyReading, busy_between
from tercet.results.record import StageBusy


def test_shares_are_means_over_the_ranks() -> None:
    before = BusyReading(10.0, {("d", 0, "decode"): 1.0, ("d", 1, "decode"): 5.0, ("d", 0, "prefill"): 0.0})
    after = BusyReading(14.0, {("d", 0, "decode"): 3.0, ("d", 1, "decode"): 6.0, ("d", 0, "prefill"): 0.0})
    assert busy_between(before, after) == (StageBusy("d", "decode", 0.375), StageBusy("d", "prefill", 0.0))


def test_a_restarted_rank_counts_from_its_start() -> None:
    before = BusyReading(0.0, {("d", 0, "decode"): 100.0})
    after = BusyReading(4.0, {("d", 0, "decode"): 1.0})
    assert busy_between(before, after) == (StageBusy("d", "decode", 0.25),)
