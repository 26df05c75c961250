"""Who wins, who ties, and when nobody can say."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tercet.compare.cell import cells
from tercet.compare.verdict import judge
from tercet.results.document import TrafficRecord
from tercet.results.record import RunRecord
from tercet.results.slo import Slo
from tercet.results.verdict import Verdict

from ..results.samples import architecture, failed, request, run

Ttft = Callable[[int, int], float]
"""(conversation, turn) -> TTFT in seconds."""

TRAFFIC = (TrafficRecord("W1", 1.0, 10, 5, 2, 0.0, "poisson", 16),)


def made(label: str, ttft: Ttft | float, block: int, *, conversations: int = 4, tpot: float = 0.01) -> RunRecord:
    value = ttft if callable(ttft) else lambda c, turn: ttft
    requests = tuple(request(f"c{c}", turn, value(c, turn), tpot) for c in range(conversations) for turn in (1, 2))
    return run(label, requests, number=block)


def blocks(ttfts: dict[str, Sequence[float]]) -> list[RunRecord]:
    """Return a run per architecture and block, all of whose TTFTs are the given one."""
    return [made(label, ttft, block) for label, values in ttfts.items() for block, ttft in enumerate(values)]


def judged(
    runs: Sequence[RunRecord],
    *,
    primary: Sequence[str] = ("ttft", "throughput"),
    tie_margin: float = 0.03,
    devices: dict[str, int] | None = None,
    slo: Slo | None = None,
) -> dict[str, Verdict]:
    labels = dict.fromkeys(run.architecture for run in runs)
    records = [replace(architecture(label), devices=(devices or {}).get(label, 2)) for label in labels]
    (cell,) = cells(runs, [traffic.with_slo(slo) for traffic in TRAFFIC], records)
    return {verdict.metric: verdict for verdict in judge(cell, primary=primary, tie_margin=tie_margin)}


def test_a_steady_lead_wins_and_the_margin_is_told() -> None:
    verdict = judged(blocks({"pd": (0.2, 0.3, 0.21), "ppd": (0.1, 0.15, 0.105)}))["ttft"]
    assert (verdict.winner, verdict.leaders, verdict.basis) == ("ppd", ("ppd",), "3 blocks")
    assert verdict.values == {"pd": pytest.approx(710 / 3), "ppd": pytest.approx(355 / 3)}
    (margin,) = verdict.margins
    assert (margin.architecture, margin.outcome) == ("pd", "beaten")
    assert margin.relative == pytest.approx(1.0)


def test_the_run_is_the_unit_however_many_requests_it_has() -> None:
    runs = [made(label, ttft, 0, conversations=50) for label, ttft in (("pd", 0.2), ("ppd", 0.1))]
    verdict = judged(runs)["ttft"]
    assert verdict.leaders == ()
    assert verdict.reason == "needs at least 3 blocks, there is 1"


def test_a_difference_within_the_margin_is_a_tie_however_sure() -> None:
    runs = blocks({"pd": (0.2040, 0.2041, 0.2040), "ppd": (0.2, 0.2, 0.2)})
    verdict = judged(runs)["ttft"]
    assert verdict.tied
    assert verdict.leaders == ("pd", "ppd")
    assert verdict.margins[0].low > 0
    assert judged(runs, tie_margin=0.01)["ttft"].winner == "ppd"


def test_noise_is_undecided_rather_than_a_tie() -> None:
    verdict = judged(blocks({"pd": (0.2, 0.3, 0.1), "ppd": (0.1, 0.28, 0.15)}))["ttft"]
    assert (verdict.leaders, verdict.tied) == (("pd", "ppd"), False)
    assert verdict.margins[0].outcome == "undecided"


def test_one_lucky_run_of_three_does_not_win() -> None:
    verdict = judged(blocks({"pd": (0.2, 0.2, 0.2), "ppd": (0.19, 0.19, 0.05)}))["ttft"]
    assert verdict.winner is None


def test_those_that_tie_ahead_of_a_third_lead_together() -> None:
    runs = blocks({"replicated": (0.5, 0.5, 0.51), "pd": (0.2, 0.2, 0.2), "ppd": (0.2, 0.2, 0.2)})
    verdict = judged(runs)["ttft"]
    assert verdict.leaders == ("pd", "ppd")
    assert verdict.tied
    assert verdict.winner is None


@pytest.mark.parametrize(("lost", "winner", "outcome"), [(1, "ppd", "beaten"), (2, "pd", "dropped")])
def test_up_to_a_percentage_point_fewer_answers_may_still_win(lost: int, winner: str, outcome: str) -> None:
    runs = []
    for block in range(3):
        pd, ppd = (made(label, ttft, block, conversations=50) for label, ttft in (("pd", 0.2), ("ppd", 0.1)))
        runs += [pd, replace(ppd, requests=(*map(failed, ppd.requests[:lost]), *ppd.requests[lost:]))]
    verdict = judged(runs)["ttft"]
    assert verdict.winner == winner, "of a hundred requests"
    assert [margin.outcome for margin in verdict.margins] == [outcome]


def test_a_block_that_one_did_not_end_is_named() -> None:
    runs = blocks({"pd": (0.2, 0.2, 0.2), "ppd": (0.1, 0.1, 0.1)})
    runs[4] = replace(runs[4], complete=False)
    assert judged(runs)["ttft"].reason == "needs at least 3 blocks, there are 2: block 2 was not completed by ppd"


def test_who_answers_nothing_takes_no_verdict_from_the_others() -> None:
    """At a load that ends one architecture there was none on any: no request was answered by all of them."""
    runs = blocks({"pd": (0.2, 0.3, 0.21), "ppd": (0.1, 0.15, 0.105), "replicated": (0.1, 0.1, 0.1)})
    dead = [
        replace(run, requests=tuple(failed(each) for each in run.requests)) if run.architecture == "replicated" else run
        for run in runs
    ]
    verdict = judged(dead)["ttft"]
    assert (verdict.winner, set(verdict.values)) == ("ppd", {"pd", "ppd"})
    assert verdict.basis == "3 blocks; replicated answered nothing"
    assert judged(dead, devices={"replicated": 4})["throughput"].label == "output tokens/s"
    two = judged([run for run in dead if run.architecture != "pd"])["ttft"]
    assert two.leaders == () and two.reason.endswith("with a request that every architecture answered")


def test_only_declared_metrics_name_a_winner_and_only_they_are_adjusted() -> None:
    runs = blocks({"pd": (0.21, 0.2, 0.205), "ppd": (0.1, 0.1, 0.1)})
    alone, pair = judged(runs, primary=("e2e",)), judged(runs, primary=("e2e", "ttft"))
    assert alone["e2e"].winner == "ppd"
    assert (alone["ttft"].winner, alone["ttft"].ahead, alone["ttft"].primary) == (None, "ppd", False)
    assert pair["ttft"].winner == "ppd"
    assert alone["ttft"].margins[0].p < pair["ttft"].margins[0].p
    assert alone["tpot"].margins == pair["tpot"].margins


def test_many_primary_metrics_and_pairs_need_stronger_evidence() -> None:
    ttfts: dict[str, Sequence[float]] = {"pd": (0.115, 0.107, 0.110, 0.102), "ppd": (0.1, 0.1, 0.1, 0.1)}
    assert judged(blocks(ttfts), primary=("ttft",))["ttft"].winner == "ppd"
    crowd = blocks({**ttfts, "a": (0.1, 0.14, 0.1, 0.09), "b": (0.15, 0.1, 0.1, 0.09)})
    verdict = judged(crowd, primary=("ttft", "e2e", "tpot", "throughput"))["ttft"]
    assert "pd" in verdict.leaders


def test_throughput_is_per_device_when_devices_differ() -> None:
    runs = blocks({"aggregated": (0.2, 0.2, 0.2), "pd": (0.2, 0.2, 0.2)})
    verdict = judged(runs, devices={"aggregated": 1, "pd": 2})["throughput"]
    assert verdict.winner == "aggregated"
    assert verdict.values == {"aggregated": pytest.approx(4.0), "pd": pytest.approx(2.0)}
    assert verdict.label == "output tokens/s per device"
    assert not verdict.lower_is_better
    assert judged(runs)["throughput"].tied


def test_goodput_is_won_by_who_keeps_the_limits() -> None:
    # Of one in four requests of a run "late" is late; "lame" keeps the limit never, "good" always.
    def late(conversation: int, turn: int) -> float:
        return 0.9 if conversation == 0 else 0.1

    runs = [made("late", late, block) for block in range(3)] + blocks({"good": (0.1,) * 3, "lame": (0.9,) * 3})
    goodput = ("goodput",)
    verdict = judged(runs, primary=goodput, slo=Slo(ttft_ms=500))["goodput"]
    assert (verdict.winner, verdict.label) == ("good", "goodput/s (ttft:500)")
    assert verdict.values["late"] == pytest.approx(0.75 * verdict.values["good"])
    assert 0 < verdict.values["lame"] < verdict.values["good"] / 8, "less than one answer, and still a figure"
    assert "goodput" not in judged(runs), "nobody said which answers are good"
    nobody = judged(runs, primary=goodput, slo=Slo(ttft_ms=5))["goodput"]
    assert nobody.leaders == () and nobody.reason == "no answer kept the limits"


def test_only_requests_that_every_architecture_answered_are_compared() -> None:
    runs = []
    for block in range(3):
        pd = made("pd", lambda c, turn: 5.0 if c == 0 else 0.2, block, conversations=60)
        ppd = made("ppd", 0.2, block, conversations=60)
        runs += [pd, replace(ppd, requests=(failed(ppd.requests[0]), failed(ppd.requests[1]), *ppd.requests[2:]))]
    verdict = judged(runs)["ttft"]
    assert verdict.values == {"pd": pytest.approx(200), "ppd": pytest.approx(200)}


def test_what_drops_requests_cannot_win() -> None:
    runs = blocks({"pd": (0.2, 0.2, 0.2), "ppd": (0.1, 0.1, 0.1)})
    runs = [
        replace(run, requests=(failed(run.requests[0]), *run.requests[1:])) if run.architecture == "ppd" else run
        for run in runs
    ]
    verdict = judged(runs)["e2e"]
    assert verdict.leaders == ("pd",)
    assert verdict.margins[0].outcome == "dropped"


def test_a_few_failures_in_one_block_name_no_winner() -> None:
    """Whoever they hit can't win; that the other is better is not shown by them."""
    runs = blocks({"pd": (0.2, 0.2, 0.2), "ppd": (0.1, 0.1, 0.1)})
    runs[4] = replace(runs[4], requests=(failed(runs[4].requests[0]), *runs[4].requests[1:]))
    verdict = judged(runs)["ttft"]
    assert (verdict.leaders, verdict.tied) == (("pd", "ppd"), False)
    assert verdict.margins[0].outcome == "undecided"
    assert verdict.basis == "3 blocks; ppd answered fewer requests, perhaps by chance"
    slow = blocks({"pd": (0.2, 0.2, 0.2), "ppd": (0.3, 0.3, 0.3)})
    slow[4] = replace(slow[4], requests=(failed(slow[4].requests[0]), *slow[4].requests[1:]))
    assert judged(slow)["ttft"].winner == "pd", "slower is slower, however many it answered"


def test_the_same_against_itself_hardly_ever_names_a_winner_though_requests_fail() -> None:
    rng = random.Random(4)
    named = 0
    for _ in range(200):
        runs = noisy(rng, 1.0, 0.2, 0.1)
        runs = [
            replace(run, requests=tuple(failed(each) if rng.random() < 0.01 else each for each in run.requests))
            for run in runs
        ]
        named += any(verdict.winner for verdict in judged(runs).values())
    assert named <= 20


def test_invalid_and_unfinished_blocks_are_left_out_and_said() -> None:
    runs = blocks({"pd": (0.2,) * 4, "ppd": (0.1,) * 4})
    late = replace(runs[0], invalid_reasons=("the client was late",))
    verdict = judged([late, *runs[1:]])["ttft"]
    assert (verdict.winner, verdict.basis) == ("ppd", "3 blocks, 1 left out")
    verdict = judged([late, replace(runs[1], complete=False), *runs[2:]])["ttft"]
    assert verdict.leaders == ()
    assert verdict.reason == ("needs at least 3 blocks, there are 2: block 1 of pd is invalid: the client was late")


def test_nothing_in_common_is_said() -> None:
    runs = blocks({"pd": (0.2,) * 3, "ppd": (0.1,) * 3})
    runs = [
        replace(run, requests=tuple(failed(request) for request in run.requests)) if run.architecture == "ppd" else run
        for run in runs
    ]
    verdict = judged(runs)["ttft"]
    assert verdict.reason == "needs at least 3 blocks, there are 0 with a request that every architecture answered"
    assert verdict.values == {}


def test_one_architecture_alone_is_not_judged() -> None:
    assert cells(blocks({"pd": (0.2, 0.2, 0.2)}), TRAFFIC, [architecture("pd")]) == []


def noisy(rng: random.Random, slowdown: float, drift: float, noise: float) -> list[RunRecord]:
    """Return five blocks of two architectures; the machine drifts between blocks, equally for both."""
    runs = []
    for block in range(5):
        level = 0.1 * rng.lognormvariate(0, drift)
        for label, factor in (("a", 1.0), ("b", slowdown)):
            values = [level * factor * rng.lognormvariate(0, noise) for _ in range(16)]
            runs.append(made(label, lambda c, turn, v=values: v[2 * c + turn - 1], block))  # type: ignore[misc]
    return runs


def named(slowdown: float, comparisons: int, seed: int, *, noise: float) -> dict[str | None, int]:
    """Return how often each architecture was named the winner of any primary metric."""
    rng = random.Random(seed)
    count: dict[str | None, int] = {"a": 0, "b": 0, None: 0}
    for _ in range(comparisons):
        winners = {verdict.winner for verdict in judged(noisy(rng, slowdown, 0.2, noise)).values()} - {None}
        assert len(winners) <= 1
        count[next(iter(winners), None)] += 1
    return count


def test_the_same_against_itself_hardly_ever_names_a_winner() -> None:
    count = named(1.0, 100, seed=1, noise=0.1)
    assert count["a"] + count["b"] <= 10


def test_a_tenth_slower_is_named_the_loser_though_the_machine_drifts() -> None:
    count = named(1.1, 50, seed=2, noise=0.08)
    assert count["a"] >= 40
    assert count["b"] == 0
