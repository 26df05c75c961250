"""Who wins, who ties, and when nobody can say."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tercet.compare.verdict import judge
from tercet.results.record import RunRecord
from tercet.results.verdict import Verdict

from ..results.samples import failed, request, run

Ttft = Callable[[int, int], float]
"""(conversation, turn) -> TTFT in seconds."""


def made(mode: str, ttft: Ttft, *, number: int = 0, conversations: int = 8, tpot: float = 0.01) -> RunRecord:
    requests = tuple(request(f"c{c}", turn, ttft(c, turn), tpot) for c in range(conversations) for turn in (1, 2))
    return run(mode, requests, number=number)


def steady(ttft_s: float) -> Ttft:
    return lambda conversation, turn: ttft_s


def by_metric(verdicts: tuple[Verdict, ...]) -> dict[str, Verdict]:
    return {verdict.metric: verdict for verdict in verdicts}


def test_a_steady_lead_wins_and_the_margin_is_told() -> None:
    pd = made("pd", lambda c, turn: 0.2 + 0.01 * c)
    ppd = made("ppd", lambda c, turn: (0.2 if turn == 1 else 0.1) + 0.01 * c)
    verdicts = by_metric(judge([pd, ppd], turns=2, devices={"pd": 2, "ppd": 2}))
    later = verdicts["ttft_later"]
    assert later.winner == "ppd"
    assert later.basis == "8 paired conversations"
    assert later.values == {"pd": pytest.approx(235), "ppd": pytest.approx(135)}
    (margin,) = later.margins
    assert (margin.architecture, margin.outcome) == ("pd", "beaten")
    assert margin.relative == pytest.approx(100 / 135)
    assert verdicts["ttft_turn1"].leaders == ("pd", "ppd")
    assert verdicts["tpot"].leaders == ("pd", "ppd")
    assert verdicts["e2e"].winner == "ppd"


def test_a_margin_within_the_noise_is_a_tie() -> None:
    rng = random.Random(1)
    noise = {(mode, c): rng.gauss(0, 0.05) for mode in ("pd", "ppd") for c in range(8)}
    pd = made("pd", lambda c, turn: 0.30 + noise["pd", c])
    ppd = made("ppd", lambda c, turn: 0.29 + noise["ppd", c])
    assert by_metric(judge([pd, ppd], turns=2, devices={}))["e2e"].leaders == ("pd", "ppd")


def test_a_sure_but_tiny_difference_is_a_tie() -> None:
    pd = made("pd", lambda c, turn: 0.2020)
    ppd = made("ppd", lambda c, turn: 0.2000)
    (margin,) = by_metric(judge([pd, ppd], turns=2, devices={}))["ttft_turn1"].margins
    assert margin.low > 0
    assert margin.outcome == "tie"


def test_modes_that_tie_ahead_of_a_third_lead_together() -> None:
    runs = [
        made("replicated", lambda c, turn: 0.5),
        made("pd", lambda c, turn: 0.2),
        made("ppd", lambda c, turn: 0.2),
    ]
    assert by_metric(judge(runs, turns=2, devices={}))["ttft_turn1"].leaders == ("pd", "ppd")


def test_three_runs_make_the_run_the_unit() -> None:
    runs = [made("pd", steady(0.2 + 0.01 * n), number=n) for n in range(3)]
    runs += [made("ppd", steady(0.1 + 0.01 * n), number=n) for n in range(3)]
    verdicts = by_metric(judge(runs, turns=2, devices={}))
    assert verdicts["ttft_turn1"].basis == "3 runs"
    assert verdicts["ttft_turn1"].winner == "ppd"
    assert verdicts["throughput"].leaders == ("pd", "ppd")


def test_one_lucky_run_of_three_does_not_win() -> None:
    runs = [made("pd", steady(0.2), number=n) for n in range(3)]
    runs += [made("ppd", steady(ttft), number=n) for n, ttft in enumerate((0.19, 0.19, 0.05))]
    assert by_metric(judge(runs, turns=2, devices={}))["ttft_turn1"].leaders == ("pd", "ppd")


def test_throughput_of_fewer_than_three_runs_is_not_judged() -> None:
    verdict = by_metric(judge([made("pd", lambda c, t: 0.2), made("ppd", lambda c, t: 0.1)], turns=2, devices={}))[
        "throughput"
    ]
    assert verdict.leaders == ()
    assert verdict.reason == "needs at least 3 runs, there is 1"


def test_throughput_is_per_device_when_devices_differ() -> None:
    runs = [made(mode, lambda c, turn: 0.2, number=n) for mode in ("aggregated", "pd") for n in range(3)]
    verdict = by_metric(judge(runs, turns=2, devices={"aggregated": 1, "pd": 2}))["throughput"]
    assert verdict.winner == "aggregated"
    assert verdict.label == "output tokens/s per device"
    assert verdict.values == {"aggregated": pytest.approx(8.0), "pd": pytest.approx(4.0)}


def test_only_requests_that_every_mode_answered_are_compared() -> None:
    pd = made("pd", lambda c, turn: 5.0 if c == 0 else 0.2, conversations=60)
    ppd = made("ppd", lambda c, turn: 0.2, conversations=60)
    ppd = replace(ppd, requests=(failed(ppd.requests[0]), *ppd.requests[1:]))
    first = by_metric(judge([pd, ppd], turns=2, devices={}))["ttft_turn1"]
    assert first.values["pd"] == pytest.approx(200)
    assert first.basis == "59 paired conversations"


def test_a_mode_that_drops_requests_cannot_win() -> None:
    pd = made("pd", lambda c, turn: 0.2)
    fast = made("ppd", lambda c, turn: 0.1)
    fast = replace(fast, requests=(failed(fast.requests[0]), *fast.requests[1:]))
    assert by_metric(judge([pd, fast], turns=2, devices={}))["e2e"].winner == "pd"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"invalid_reasons": ("the client was saturated",)}, "run 1 of ppd is invalid: the client was saturated"),
        ({"complete": False}, "no run was completed in every mode"),
    ],
)
def test_runs_that_are_no_evidence_give_no_verdict(change: dict[str, object], reason: str) -> None:
    runs = [made("pd", lambda c, t: 0.2), replace(made("ppd", lambda c, t: 0.1), **change)]  # type: ignore[arg-type]
    for verdict in judge(runs, turns=2, devices={}):
        assert verdict.leaders == ()
        assert verdict.reason == reason


def test_one_mode_alone_is_not_judged() -> None:
    assert judge([made("pd", lambda c, turn: 0.2)], turns=2, devices={}) == ()
