"""The verdict in a sentence, recommendations, and when an architecture is useful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tercet.report.evidence import Group
from tercet.report.gather import gather
from tercet.report.headline import headline
from tercet.report.recommend import level_names, recommendations
from tercet.report.spans import listed, spans
from tercet.report.usefulness import usefulness
from tercet.results.document import Results
from tercet.results.verdict import BEATEN, DROPPED, TIE, UNDECIDED, Margin, Verdict

from .synthetic import comparison

LOADS = (1.0, 2.0, 4.0, 8.0)
W1 = Group("W1", "qps")


def judged(
    load: float, leaders: Sequence[str], *, metric: str = "ttft", workload: str = "W1", outcome: str = BEATEN
) -> Verdict:
    """Return a verdict in which `leaders` lead and the others follow by 30%."""
    others = [label for label in ("replicated", "pd", "ppd") if label != (leaders[0] if leaders else "")]
    margins = tuple(
        Margin(label, 0.3, 0.2, 0.4, 0.01, outcome if label in leaders else BEATEN) for label in others if leaders
    )
    label = "TTFT" if metric == "ttft" else "output tokens/s"
    values = {"replicated": 3.0, "pd": 2.0, "ppd": 1.0}
    reason = "" if leaders else "needs at least 3 blocks, there is 1"
    return Verdict(
        workload, "qps", load, metric, label, "ms", metric == "ttft", True, values, tuple(leaders), margins, "5 blocks",
        reason,
    )  # fmt: skip


def with_verdicts(*verdicts: Verdict, workloads: Sequence[str] = ("W1",)) -> Results:
    return replace(comparison(workloads=workloads, loads=LOADS, blocks=3, conversations=3), verdicts=verdicts)


def sentence(results: Results) -> str:
    return headline(results, gather(results))


def test_a_crossover_in_one_sentence() -> None:
    verdicts = [judged(1, ["replicated"]), judged(2, ["replicated"]), judged(4, ["ppd"]), judged(8, ["ppd"])]
    work = [judged(load, ["ppd", "pd"], metric="throughput", outcome=TIE) for load in LOADS]
    assert sentence(with_verdicts(*verdicts, *work)) == (
        "In time to first token replicated wins up to 2 requests/s and ppd wins from 4 requests/s; "
        "in throughput pd and ppd tie at every load."
    )


def test_undecided_is_not_a_tie() -> None:
    verdicts = [judged(load, ["ppd", "pd"], outcome=UNDECIDED) for load in LOADS]
    assert sentence(with_verdicts(*verdicts)) == "In time to first token pd and ppd are undecided at every load."


def test_one_winner_everywhere() -> None:
    verdicts = [judged(load, ["ppd"], workload=workload) for workload in ("W1", "W2") for load in LOADS]
    said = sentence(with_verdicts(*verdicts, workloads=("W1", "W2")))
    assert said == "In time to first token ppd wins in every workload at every load."


def test_many_ranges_are_counted() -> None:
    verdicts = [
        judged(load, ["ppd"] if load == 4 else ["replicated"], workload=workload)
        for workload in ("W1", "W2", "W3")
        for load in LOADS
    ]
    said = sentence(with_verdicts(*verdicts, workloads=("W1", "W2", "W3")))
    assert said == (
        "In time to first token replicated wins 9 of 12 settings and ppd wins 3 (W1 at 4 requests/s, W2 at 4 "
        "requests/s, W3 at 4 requests/s)."
    )


def test_many_open_settings_are_counted_by_what_they_are() -> None:
    undecided = [["ppd", "pd"], ["replicated", "pd"], ["pd", "ppd", "replicated"], ["ppd", "replicated"]]
    verdicts = [
        judged(load, leaders, workload=workload, outcome=UNDECIDED)
        for workload in ("W1", "W2")
        for load, leaders in zip(LOADS, undecided, strict=True)
    ]
    said = sentence(with_verdicts(*verdicts, workloads=("W1", "W2")))
    assert said == "In time to first token 8 of 8 settings are undecided."
    mixed = [judged(1, ["pd"]), *verdicts[1:7], judged(8, [], workload="W2")]
    said = sentence(with_verdicts(*mixed, workloads=("W1", "W2")))
    assert said == "In time to first token pd wins 1 of 8 settings, 6 are undecided and 1 is not judged."


def test_no_verdict_says_why_and_a_benchmark_says_what_was_seen() -> None:
    said = sentence(with_verdicts(judged(1, []), judged(2, [])))
    assert said == "No verdict: needs at least 3 blocks, there is 1."
    one = comparison(("pd",), workloads=("W1",), loads=(1,), blocks=1)
    assert sentence(replace(one, verdicts=())).startswith(
        "pd: 100% of 16 requests answered, median time to first token"
    )


def test_spans_of_single_loads_and_middles() -> None:
    verdicts = [judged(1, ["pd"]), judged(2, ["ppd"]), judged(4, ["ppd"]), judged(8, [])]
    assert [span.where for span in spans(verdicts)] == ["at 1 requests/s", "from 2 to 4 requests/s", "at 8 requests/s"]
    assert listed(["a", "b", "c"]) == "a, b and c"
    many = [replace(judged(1, ["pd"]), load_kind="concurrency"), replace(judged(32, ["pd"]), load_kind="concurrency")]
    assert [span.where for span in spans(many[:1])] == ["with 1 at once"]


@pytest.mark.parametrize(
    ("loads", "kind", "names"),
    [
        ((1, 8, 16, 32, 64), "concurrency", ["Single request / interactive", "Light traffic", "Medium traffic",
                                             "Heavy traffic", "Very heavy traffic"]),
        ((0.5, 1, 2, 4), "qps", ["Light traffic", "Medium traffic", "Heavy traffic", "Very heavy traffic"]),
        ((1,), "qps", ["Measured load"]),
    ],
)  # fmt: skip
def test_levels_of_traffic(loads: tuple[float, ...], kind: str, names: list[str]) -> None:
    assert level_names(loads, kind) == names


def test_equals_are_told_apart_by_throughput_then_by_simplicity() -> None:
    tie, undecided = judged(1, ["replicated", "ppd"], outcome=TIE), judged(2, ["pd", "replicated"], outcome=UNDECIDED)
    results = with_verdicts(
        tie, judged(1, ["ppd"], metric="throughput"), undecided, judged(4, ["ppd"]), judged(8, []),
        judged(2, ["ppd"], metric="throughput"),
    )  # fmt: skip
    rows = recommendations(results, gather(results), W1)
    assert [row.best for row in rows] == ["ppd", "replicated", "ppd", "-"]
    assert rows[0].why == "ppd and replicated: tie on TTFT; leads in throughput"
    assert rows[1].why.endswith("undecided on TTFT; simplest to run")
    assert rows[2].why == "wins on TTFT"
    assert rows[3].why.startswith("no verdict: ")
    assert rows[2].ttft_p50 is not None and rows[3].ttft_p50 is None


def test_of_undecided_ones_who_answered_fewer_requests_is_not_recommended() -> None:
    undecided = [judged(load, ["pd", "replicated"], outcome=UNDECIDED) for load in LOADS]
    results = with_verdicts(*undecided)
    (first, *rest) = next(run for run in results.runs if run.architecture == "replicated" and run.load == 4).requests
    runs = tuple(
        replace(run, requests=(replace(first, error="503", chunk_s=()), *rest))
        if (run.architecture, run.load, run.block) == ("replicated", 4, 0)
        else run
        for run in results.runs
    )
    short = replace(results, runs=runs)
    rows = recommendations(short, gather(short), W1)
    assert [row.best for row in rows] == ["replicated", "replicated", "pd", "pd"], "at 8 it is overloaded already"
    assert rows[2].why == "pd and replicated: undecided on TTFT; answered most requests"


def test_useful_and_not_useful_name_ranges_margins_and_rivals() -> None:
    results = with_verdicts(judged(1, ["replicated"]), judged(2, ["ppd"]), judged(4, ["ppd"]), judged(8, ["ppd"]))
    replicated, pd, ppd = usefulness(results, gather(results))
    assert replicated.useful == ("TTFT: at 1 requests/s, pd 30% behind",)
    assert replicated.not_useful == ("TTFT: from 2 requests/s 30% behind ppd",)
    assert ppd.useful == ("TTFT: from 2 requests/s, replicated 30% behind",)
    assert pd.useful == ()
    assert pd.not_useful == ("TTFT: at 1 requests/s 30% behind replicated; from 2 requests/s 30% behind ppd",)
    assert any(line.startswith("median TTFT from the lowest load to the highest: ×") for line in pd.sensitivity)
    assert any(line.startswith("later turns' TTFT, of turn 1's: ") for line in pd.sensitivity)
    assert any(line.startswith("busy at the highest load: prefill ") for line in pd.sensitivity)


def test_a_range_does_not_reach_over_a_load_that_nothing_was_judged_at() -> None:
    results = with_verdicts(judged(1, ["ppd"]), judged(2, ["ppd"]), judged(4, []), judged(8, ["ppd"]))
    _, pd, ppd = usefulness(results, gather(results))
    assert ppd.useful == ("TTFT: up to 2 requests/s, replicated 30% behind; at 8 requests/s, replicated 30% behind",)
    assert pd.not_useful == ("TTFT: up to 2 requests/s 30% behind ppd; at 8 requests/s 30% behind ppd",)


def test_who_dropped_work_is_not_behind_by_what_that_made_it_faster() -> None:
    won = judged(1, ["ppd"])
    quick = Margin("pd", -0.4, -0.5, -0.3, 0.01, DROPPED)
    both = replace(won, margins=(Margin("replicated", 0.3, 0.2, 0.4, 0.01, BEATEN), quick))
    results = with_verdicts(both)
    _, pd, ppd = usefulness(results, gather(results))
    assert ppd.useful == ("TTFT: at 1 requests/s, replicated 30% behind",)
    assert pd.not_useful == ("TTFT: at 1 requests/s behind ppd, with fewer requests answered",)
    alone = with_verdicts(replace(won, margins=(quick,)))
    assert usefulness(alone, gather(alone))[2].useful == (
        "TTFT: at 1 requests/s, the others with fewer requests answered",
    )


def test_whose_first_token_grows_most_is_told_only_beyond_chance() -> None:
    def growths(results: Results) -> dict[str, str]:
        lines = {each.architecture: each.sensitivity[0] for each in usefulness(results, gather(results))}
        return {label: line.partition("highest: ")[2] for label, line in lines.items()}

    unlike = growths(comparison(("replicated", "ppd"), workloads=("W1",), loads=(1, 4, 8)))
    assert unlike["replicated"].endswith("(most of all)") and unlike["ppd"].endswith("(least of all)")
    one = comparison(("pd",), workloads=("W1",), loads=(1, 4))
    twins = tuple(replace(run, architecture="twin") for run in one.runs if run.block)
    (pd,) = one.architectures
    both = growths(replace(one, runs=one.runs + twins, architectures=(pd, replace(pd, label="twin"))))
    assert not [text for text in both.values() if "of all" in text], "the same device, in all but one of the same runs"


def test_first_tokens_that_took_no_time_divide_nothing() -> None:
    """As a tool writes them that takes an empty piece for the first token."""
    results = comparison(("pd", "ppd"), workloads=("W1", "W2"), loads=(1, 4), blocks=3)
    runs = tuple(
        replace(run, requests=tuple(replace(each, chunk_s=(each.sent_s, *each.chunk_s)) for each in run.requests))
        for run in results.runs
    )
    instant = replace(results, runs=runs)
    assert not any("later turns" in line for each in usefulness(instant, gather(instant)) for line in each.sensitivity)


def test_who_declared_goodput_is_recommended_by_it() -> None:
    verdicts = [judged(load, ["pd"]) for load in LOADS]
    verdicts += [judged(load, ["ppd"], metric="goodput") for load in LOADS[:-1]]
    verdicts.append(judged(LOADS[-1], ["ppd", "replicated"], metric="goodput", outcome=TIE))
    results = with_verdicts(*verdicts)
    rows = recommendations(results, gather(results), W1)
    assert {(row.best, row.why) for row in rows[:-1]} == {("ppd", "wins on goodput")}
    assert rows[-1].why.startswith("ppd and replicated: tie on goodput")
    assert "; in goodput ppd wins" in sentence(results)
    told = with_verdicts(*(replace(v, primary=v.metric == "ttft") for v in verdicts))
    assert {row.why for row in recommendations(told, gather(told), W1)} == {"wins on TTFT"}
