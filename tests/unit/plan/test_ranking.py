from __future__ import annotations

from dataclasses import replace

import pytest

from tercet.core.stage import Mode
from tercet.plan.architecture import Architecture
from tercet.plan.ranking import Standing, crossovers, objective_gap, rank
from tercet.plan.search import Plan
from tercet.plan.sensitivity import Change, effect_of
from tercet.plan.trial import Outcome, Trial
from tercet.results.summary import Spread
from tests.unit.plan.questions import question

A = Architecture(Mode.AGGREGATED, whole=2)
PD = Architecture(Mode.PD, prefill=1, decode=1)
EPD = Architecture(Mode.EPD, encode=1, whole=1)
ASKED = question()


def outcome(way: Architecture, goodput: float, e2e: float = 100.0, load: float = 4.0, seed: int = 0) -> Outcome:
    spread = Spread(1, e2e, e2e, e2e, e2e, e2e)
    return Outcome(Trial(way, load, seed), goodput / load, load, load, 1.0, spread, spread, spread)


def standing(architecture: Architecture, *goodputs: float, bears: float = 9.0, e2e: float = 100.0) -> Standing:
    runs = tuple(outcome(architecture, goodput, e2e, seed=seed) for seed, goodput in enumerate(goodputs))
    return Standing(architecture, runs, bears)


def test_more_goodput_wins_beyond_the_margin_alone() -> None:
    clear = rank(ASKED, [standing(A, 2.0, 2.1, 2.2), standing(PD, 3.0, 3.1, 3.2)])
    assert (clear.best.architecture, clear.ties, clear.decided) == (PD, (), "goodput")
    near = rank(ASKED, [standing(A, 3.9, 3.9, 3.9), standing(PD, 4.0, 4.0, 4.0)])
    assert near.ties and near.decided != "goodput"


def test_seeds_that_disagree_make_a_tie() -> None:
    gap = objective_gap(ASKED, standing(A, 4.0, 1.0, 4.0), standing(PD, 2.0, 2.0, 2.0))
    assert gap.ratio > 1.2 and gap.sign == 0
    assert objective_gap(ASKED, standing(A, 4.0, 3.0, 4.0), standing(PD, 2.0, 2.0, 2.0)).sign == 1


@pytest.mark.parametrize(
    ("a", "pd", "decided"),
    [
        ({"bears": 9.0}, {"bears": 12.0}, "headroom"),
        ({"bears": 12.0, "e2e": 150.0}, {"bears": 12.5, "e2e": 100.0}, "latency"),
        ({"bears": 12.0, "e2e": 105.0}, {"bears": 12.5, "e2e": 100.0}, "simplicity"),
    ],
)
def test_what_ties_is_told_apart_by_the_next_thing(a: dict[str, float], pd: dict[str, float], decided: str) -> None:
    ranking = rank(ASKED, [standing(PD, 4.0, 4.0, **pd), standing(A, 4.0, 4.0, **a)])
    assert ranking.decided == decided
    assert ranking.best.architecture == (A if decided == "simplicity" else PD)
    assert ranking.ties == ((PD,) if decided == "simplicity" else (A,))


def test_it_is_said_of_which_the_first_answers_soonest() -> None:
    slow = standing(EPD, 4.0, 4.0, bears=12.0, e2e=150.0)
    quick_but_full = standing(A, 4.0, 4.0, bears=5.0, e2e=50.0)
    ranking = rank(ASKED, [slow, quick_but_full, standing(PD, 4.0, 4.0, bears=12.0)])
    assert (ranking.best.architecture, ranking.decided, ranking.after) == (PD, "latency", ("headroom",))
    assert rank(ASKED, [slow, quick_but_full]).after == ()


def test_without_limits_the_sooner_answer_wins() -> None:
    asked = question(slo=None)
    ranking = rank(asked, [standing(PD, 4.0, e2e=200.0), standing(A, 1.0, e2e=100.0)])
    assert (ranking.best.architecture, ranking.decided) == (A, "latency")


def test_no_good_answer_at_all_is_no_error() -> None:
    ranking = rank(ASKED, [standing(PD, 0.0), standing(A, 1.0)])
    assert ranking.best.architecture == A


def test_ranges_of_load() -> None:
    loads = (1.0, 2.0, 4.0, 8.0)
    curves = {
        A: [outcome(A, value, load=load) for load, value in zip(loads, (1.0, 2.0, 2.0), strict=False)],
        PD: [outcome(PD, value, load=load) for load, value in zip(loads, (1.0, 2.0, 3.9, 5.0), strict=True)],
    }
    assert crossovers(ASKED, curves) == [(1.0, 2.0, None), (4.0, 8.0, PD)]


def test_the_range_that_was_ranked_says_what_the_ranking_says() -> None:
    """One seed has A ahead, the others don't: that is a tie, in the table of loads as in the verdict."""
    ranking = rank(ASKED, [standing(A, 4.0, 3.0, 3.0), standing(PD, 3.0, 3.1, 3.1)])
    curves = {way: [outcome(way, value, load=4.0)] for way, value in ((A, 4.0), (PD, 3.0))}
    assert ranking.ties
    assert crossovers(ASKED, curves) == [(4.0, 4.0, A)]
    assert crossovers(ASKED, curves, ranking.standings) == [(4.0, 4.0, None)]


def test_what_one_seed_shows_without_a_change_is_not_that_changes_doing() -> None:
    standings = [standing(A, 3.0, 4.0, 4.0, bears=9.0), standing(PD, 4.0, 3.9, 3.9, bears=5.0)]
    found = Plan(ASKED, rank(ASKED, standings), 4.0, (4.0,), {}, {}, 2, 2)
    assert found.ranking.best.architecture == A
    change = Change("every step 15% slower", ASKED, 4.0)
    as_before = effect_of(change, found, [outcome(A, 3.0), outcome(PD, 4.0)])
    assert (as_before.best, as_before.flips) == (PD, False)
    told = replace(found, ranking=rank(ASKED, [standing(A, 4.0, 4.0, 4.0), standing(PD, 4.0, 3.9, 3.9, bears=5.0)]))
    assert effect_of(change, told, [outcome(A, 3.0), outcome(PD, 4.0)]).flips
