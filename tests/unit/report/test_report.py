"""Tables and sentences, as a person sees them."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tercet.report.conclusion import answer_lines, conclusions
from tercet.report.figures import milliseconds, percent, spread_text
from tercet.report.tables import verdict_text
from tercet.report.terminal import print_results
from tercet.results.curve import RatioCurve, RatioPoint
from tercet.results.document import Results
from tercet.results.summary import Spread, summarise
from tercet.results.verdict import BEATEN, DROPPED, TIE, UNDECIDED, AnswerCheck, Margin, Verdict

from ..results.samples import architecture, request, results, run


def e2e(replicated: float, ppd: float, leaders: tuple[str, ...]) -> Verdict:
    worse, better = ("ppd", "replicated") if ppd > replicated else ("replicated", "ppd")
    high, low = max(replicated, ppd), min(replicated, ppd)
    margin = Margin(worse, high / low - 1, 0.1, 0.4, 0.01, BEATEN if leaders == (better,) else TIE)
    values = {"replicated": replicated, "ppd": ppd}
    return Verdict("W1", "qps", 0.5, "e2e", "E2E", "ms", True, True, values, leaders, (margin,), "3 blocks")


def with_verdicts(*verdicts: Verdict) -> Results:
    modes = ("replicated", "pd", "ppd")
    return replace(results(), verdicts=verdicts, architectures=tuple(architecture(mode) for mode in modes))


def text(document: Results) -> str:
    out = io.StringIO()
    print_results(document, Console(file=out, width=140))
    return out.getvalue()


@pytest.mark.parametrize(
    ("value", "written"), [(1.234, "1.23"), (9.996, "10.0"), (45.67, "45.7"), (99.96, "100"), (12345.6, "12346")]
)
def test_milliseconds_have_three_digits(value: float, written: str) -> None:
    assert milliseconds(value) == written


def test_percentages_are_whole_only_when_they_are() -> None:
    assert (percent(1.0), percent(0.99999), percent(0.5), percent(0)) == ("100%", "99.9%", "50.0%", "0.0%")


def test_a_spread_is_mean_median_and_99th() -> None:
    assert spread_text(Spread(3, 100.0, 50.0, 1.1, 1.5, 1.6)) == "100 / 50.0 / 1.50"
    assert spread_text(None) == "-"


def test_losing_disaggregation_is_said_plainly() -> None:
    (line,) = [
        line for line in conclusions(with_verdicts(e2e(1000, 1250, ("replicated",)))) if "disaggregation" in line
    ]
    assert line == (
        "At 0.5 requests/s disaggregation LOSES: ppd answers in 1250 ms (E2E), replicated in 1000 ms, "
        "25.0% longer on the same work."
    )


def test_winning_disaggregation_is_said_plainly() -> None:
    assert any("disaggregation pays" in line for line in conclusions(with_verdicts(e2e(1250, 1000, ("ppd",)))))


def test_a_tie_is_said_plainly() -> None:
    lines = conclusions(with_verdicts(e2e(1010, 1000, ("replicated", "ppd"))))
    assert any("a tie whether disaggregation pays" in line for line in lines)


def test_no_verdict_gives_its_reason() -> None:
    undecided = replace(e2e(1, 2, ()), leaders=(), reason="run 1 of pd is invalid: late")
    assert any(
        "no verdict on E2E: run 1 of pd is invalid: late" in line for line in conclusions(with_verdicts(undecided))
    )


def test_later_turns_of_ppd_are_compared_with_pd() -> None:
    values = {"pd": 200.0, "ppd": 100.0}
    later = Verdict("W1", "qps", 0.5, "ttft_later", "TTFT turn 2", "ms", True, True, values, ("ppd",), (), "3 blocks")
    lines = conclusions(with_verdicts(e2e(1250, 1000, ("ppd",)), later))
    assert any(
        line.endswith("takes 100 ms under ppd, 200 ms under pd (-50%), beyond the noise (3 blocks).") for line in lines
    )


@pytest.mark.parametrize(
    ("leaders", "low", "high", "said"),
    [
        # Each is compared with the best alone: that one of two leads there says nothing of the two.
        (("replicated", "ppd"), 0.8, 1.1, "within the noise"),
        (("replicated", "pd", "ppd"), 0.4, 0.6, "beyond the noise"),
        (("replicated",), 0.4, 0.6, "beyond the noise"),
    ],
)
def test_later_turns_of_two_modes_are_judged_by_their_own_ratio(
    leaders: tuple[str, ...], low: float, high: float, said: str
) -> None:
    values = {"replicated": 90.0, "pd": 200.0, "ppd": 100.0}
    later = Verdict("W1", "qps", 0.5, "ttft_later", "TTFT turn 2", "ms", True, True, values, leaders, (), "3 blocks")
    points = (RatioPoint(0.5, 0.5, low, high, 3),)
    pair = RatioCurve("W1", "qps", "ttft_later", "TTFT turn 2", True, "pd", "ppd", points, (), "undecided", "")
    other = replace(pair, first="replicated", points=(RatioPoint(0.5, 0.9, 0.85, 0.95, 3),))
    (line,) = [
        line
        for line in conclusions(replace(with_verdicts(later), curves=(other, pair)))
        if "first token of later turns" in line
    ]
    assert line.endswith(f"(-50%), {said} (3 blocks).")


def test_who_dropped_work_is_not_the_quick_one() -> None:
    values = {"replicated": 1000.0, "pd": 500.0, "ppd": 1250.0}
    margins = (Margin("pd", -0.5, -0.6, -0.4, 0.01, DROPPED), Margin("ppd", 0.25, 0.1, 0.4, 0.01, BEATEN))
    verdict = replace(e2e(1000, 1250, ("replicated",)), values=values, margins=margins)
    said = "\n".join(conclusions(with_verdicts(verdict)))
    assert "disaggregation LOSES: ppd answers in 1250 ms (E2E), replicated in 1000 ms, 25.0% longer" in said
    alone = replace(verdict, values={"replicated": 1000.0, "pd": 500.0}, margins=margins[:1])
    assert any("disaggregation LOSES: pd answered fewer" in line for line in conclusions(with_verdicts(alone)))
    won = replace(
        verdict,
        values={"replicated": 500.0, "pd": 1000.0},
        leaders=("pd",),
        margins=(replace(margins[0], architecture="replicated"),),
    )
    assert any("disaggregation pays: replicated answered fewer" in line for line in conclusions(with_verdicts(won)))
    later = replace(
        verdict, metric="ttft_later", values={"pd": 50.0, "ppd": 100.0}, leaders=("ppd",), margins=margins[:1]
    )
    assert any("and pd answered fewer requests (3 blocks)" in line for line in conclusions(with_verdicts(later)))


def test_the_prefix_that_decode_held_is_told() -> None:
    runs = (run("ppd", (request("c0", 1, 0.5, 0.01), request("c0", 2, 0.1, 0.01))),)
    document = replace(results(), runs=runs, summaries=summarise(runs, {"ppd": 2}))
    assert conclusions(document) == [
        "Under ppd D's own prefix cache held 40.0% of the prompt on later turns "
        "(16 of 40 tokens, 20.0% came by transfer).",
        "Under ppd 1 of 1 later turns went through P after all: D no longer held their prefix, or they brought as many "
        "uncached tokens as --ppd-threshold says.",
    ]
    unsent = (*runs[0].requests, replace(runs[0].requests[1], conversation="c1", route=None))
    assert any(
        "1 of 1 later turns" in line
        for line in conclusions(replace(document, runs=(replace(runs[0], requests=unsent),)))
    )
    direct = tuple(replace(request, route="D0") for request in runs[0].requests)
    assert len(conclusions(replace(document, runs=(replace(runs[0], requests=direct),)))) == 1


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (AnswerCheck(4, 4, 0, True, {}), ["4 of 4 answers have the same tokens in every architecture."]),
        (
            AnswerCheck(4, 3, 0, True, {}, "c1 turn 2"),
            [
                "WRONG: only 3 of 4 answers have the same tokens in every architecture, and in fp32 all must."
                " First difference: c1 turn 2."
            ],
        ),
        (AnswerCheck(0, 0, 2, False, {}), ["WRONG: 2 answers were not as long as asked."]),
        (AnswerCheck(0, 0, 0, False, {"pd": "Paris."}), ["Asked for the capital of France, pd answered Paris."]),
        (AnswerCheck(0, 0, 0, False, {"pd": "Rome"}), ["WRONG: asked for the capital of France, pd answered 'Rome'."]),
    ],
)
def test_answers_are_judged_aloud(check: AnswerCheck, expected: list[str]) -> None:
    assert answer_lines(check) == expected
    assert check.passed == (not any(line.startswith("WRONG") for line in expected))


def test_verdicts_in_a_cell() -> None:
    assert (
        verdict_text(e2e(1000, 1250, ("replicated",))) == "replicated wins; behind it: ppd by 25% (10 to 40) (3 blocks)"
    )
    tie = e2e(1000, 1250, ("replicated", "ppd"))
    assert verdict_text(tie) == "tie: replicated, ppd (3 blocks)"
    unsure = replace(tie, margins=(replace(tie.margins[0], outcome=UNDECIDED),))
    assert verdict_text(unsure) == "undecided: replicated, ppd (3 blocks)"
    secondary = replace(e2e(1000, 1250, ("replicated",)), primary=False)
    assert verdict_text(secondary).startswith("replicated is ahead; behind it: ppd")
    assert verdict_text(replace(e2e(1, 2, ()), reason="too few")) == "no verdict: too few"


def test_the_tables_hold_modes_turns_and_success() -> None:
    page = text(with_verdicts(replace(e2e(1000, 1250, ("replicated",)), load=1.0)))
    assert "500 / 500 / 500" in page
    assert "50.0% of 2" in page
    assert "replicated wins" in page
    for word in ("TTFT", "TPOT", "E2E", "mean / p50 / p99", "output tok/s", "ppd"):
        assert word in page


def test_failures_are_counted_with_their_most_frequent_reason() -> None:
    assert "Under ppd 1 of 2 requests failed, most often with: 503 no worker" in conclusions(results())


def test_a_busy_machine_is_warned_of() -> None:
    quiet, busy = (
        replace(results().runs[0], architecture=mode, foreign_cores=share)
        for mode, share in (("pd", 0.05), ("ppd", 0.9))
    )
    (line,) = [line for line in conclusions(replace(results(), runs=(quiet, busy))) if line.startswith("WARNING")]
    assert "0.1 under pd, 0.9 under ppd of this machine's 2 cores" in line
    assert not any(line.startswith("WARNING") for line in conclusions(replace(results(), runs=(quiet,))))


def test_unequal_devices_are_said_and_divided() -> None:
    runs = (run("aggregated", (request("c0", 1, 0.5, 0.01),)), run("pd", (request("c0", 1, 0.5, 0.01),)))
    document = replace(results(), runs=runs, summaries=summarise(runs, {"aggregated": 1, "pd": 2}))
    page = text(document)
    assert "tok/s/device" in page
    assert "unequal devices (aggregated 1, pd 2)" in page
