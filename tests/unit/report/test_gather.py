"""Estimates over runs: which runs count, which figures come out, and their intervals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tercet.report.estimate import estimate, estimate_text, value_text
from tercet.report.evidence import Group, complexity, roles
from tercet.report.gather import gather, run_figures
from tercet.report.metric import GOODPUT, REQUESTS, SUCCESS, TOKENS, TTFT_P50, Metric
from tercet.report.place import Place
from tercet.report.several import together
from tercet.results.document import ArchitectureRecord
from tercet.results.record import StageBusy
from tercet.results.serving import serving_figures
from tercet.results.slo import Slo

from ..results.samples import failed, request, results, run
from .synthetic import comparison

NO_LIMIT = Slo()


def test_a_positive_figure_has_the_interval_of_its_logarithms() -> None:
    found = estimate([1.0, 10.0, 100.0], TTFT_P50)
    assert found is not None
    assert found.value == pytest.approx(10.0)
    half = 4.303 * math.log(10) / 3**0.5
    assert found.low == pytest.approx(10 / math.exp(half), rel=1e-3)
    assert found.high == pytest.approx(10 * math.exp(half), rel=1e-3)


def test_a_share_stays_within_0_and_1_and_two_runs_have_no_interval() -> None:
    share = estimate([0.9, 1.0, 1.0], SUCCESS)
    assert share is not None
    assert share.value == pytest.approx(0.9667, abs=1e-4)
    assert share.high == 1.0
    rare = estimate([0.0, 0.1, 0.9], SUCCESS)
    assert rare is not None and (rare.low, rare.high) == (0.0, 1.0)
    goodput = estimate([0.0, 0.5, 9.0], GOODPUT)
    assert goodput is not None and goodput.low == 0.0, "fewer than none are no requests"
    assert goodput.high is not None and goodput.high > 9.0, "requests a second are no share"
    two = estimate([4.0, 9.0], TTFT_P50)
    assert two is not None
    assert two.value == pytest.approx(6.0)
    assert two.low is None and two.high is None
    assert estimate([], TTFT_P50) is None
    assert estimate_text(two, TTFT_P50) == "6.00"
    assert estimate_text(share, SUCCESS).endswith("to 100%)")


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (1.234, TTFT_P50, "1.23"),
        (123.4, TTFT_P50, "123"),
        (12345.6, TTFT_P50, "12346"),
        (12.34, TOKENS, "12.3"),
        (12345.6, TOKENS, "12,346"),
        (0.5, SUCCESS, "50.0%"),
    ],
)
def test_figures_are_written_with_three_digits(value: float, metric: Metric, text: str) -> None:
    assert value_text(value, metric) == text


def test_a_stage_that_did_nothing_is_idle_but_for_an_encoder_that_no_picture_came_to() -> None:
    stages = (StageBusy("w", "encode", 0.0), StageBusy("w", "prefill", 0.0), StageBusy("w", "decode", 0.4))
    for mode, seen in (("pd", {"prefill", "decode"}), ("epd", {"encode", "prefill", "decode"})):
        idle = replace(run(mode, (request("a", 1, 0.5, 0.01),)), stages=stages)
        (cell,) = gather(replace(results(), runs=(idle,))).cells
        assert set(cell.busy) == seen and cell.busy["decode"] == 0.4


def test_the_figures_of_a_run() -> None:
    requests = (request("a", 1, 0.5, 0.01), request("a", 2, 0.1, 0.01), failed(request("b", 1, 9.0, 0.01)))
    figures = run_figures(run("pd", requests), 2, NO_LIMIT)
    assert figures["ttft_first"] == pytest.approx(500)
    assert figures["ttft_later"] == pytest.approx(100)
    assert figures["ttft_p50"] == pytest.approx(300)
    assert figures["user_rate"] == pytest.approx(100)
    assert figures["success"] == pytest.approx(2 / 3)
    assert figures["tokens_per_s"] == pytest.approx(1.0)
    assert figures["device_rate"] == pytest.approx(0.5)
    assert figures["goodput"] == pytest.approx(0.2)


def test_a_steady_window_counts_good_answers_within_it_alone() -> None:
    requests = (request("a", 1, 0.5, 0.01), request("a", 2, 0.1, 0.01))
    windowed = replace(run("pd", requests), window_s=(2.0, 4.0))
    assert run_figures(windowed, 1, NO_LIMIT)["goodput"] == pytest.approx(0.5)


def test_figures_are_of_the_steady_window_as_the_benchmark_prints_them() -> None:
    # The ramp's request (sent at 1 s) is slow and finds no answer in time; those sent at 2 and 3 s are steady.
    steady = (request("a", 2, 0.1, 0.01), request("a", 3, 0.3, 0.01))
    ramp = (request("b", 1, 0.9, 0.2), failed(request("c", 1, 0.9, 0.2)))
    late = replace(request("d", 4, 5.0, 0.5), sent_s=6.0)
    windowed = replace(run("pd", (*ramp, *steady, late)), window_s=(2.0, 4.0))
    figures = run_figures(windowed, 1, NO_LIMIT)
    assert figures["ttft_p50"] == pytest.approx(200) and figures["ttft_p99"] < 300.1
    assert figures["tpot_p99"] == pytest.approx(10)
    assert figures["success"] == 1.0 and "ttft_first" not in figures
    printed = serving_figures((windowed,))
    assert figures["ttft_p50"] == pytest.approx(sum(printed.ttft_ms) / 2)
    cell = gather(replace(results(), runs=(windowed,))).cells[0]
    assert cell.estimates["ttft_p50"].value == pytest.approx(200)


def test_invalid_runs_are_left_out_unless_there_are_no_others() -> None:
    slow = run("pd", (request("a", 1, 5.0, 0.01),), number=1)
    late = replace(slow, invalid_reasons=("late",))
    good = run("pd", (request("a", 1, 0.5, 0.01),))
    both = gather(replace(results(), runs=(good, late)))
    assert both.cells[0].invalid_runs == 1
    assert not both.cells[0].invalid
    assert both.cells[0].estimates["ttft_p50"].value == pytest.approx(500)
    alone = gather(replace(results(), runs=(late,)))
    assert alone.cells[0].invalid
    assert alone.cells[0].estimates["ttft_p50"].value == pytest.approx(5000)
    assert alone.cells[0].reasons == ("late",)


def test_cells_are_in_order_and_the_slo_is_derived_from_the_lowest_load() -> None:
    evidence = gather(comparison(workloads=("W2", "W1"), loads=(4, 1), blocks=3))
    assert evidence.groups == (Group("W2", "qps"), Group("W1", "qps"))
    assert [cell.place.load for cell in evidence.of(Group("W2", "qps"))] == [1, 1, 1, 4, 4, 4]
    assert evidence.labels == ("replicated", "pd", "ppd")
    slo = evidence.slos[Group("W1", "qps")]
    best = min(cell.estimates["ttft_p50"].value for cell in evidence.of(Group("W1", "qps")) if cell.place.load == 1)
    assert slo.ttft_ms == pytest.approx(2 * best, rel=0.1)
    found = comparison(blocks=1, workloads=("W1",))
    given = gather(found, Slo(7.0))
    assert given.slos[Group("W1", "qps")].ttft_ms == 7.0
    measured = replace(found, traffics=tuple(traffic.with_slo(Slo(9.0)) for traffic in found.traffics))
    assert gather(measured).slos[Group("W1", "qps")].ttft_ms == 9.0, "what was asked for when it was measured"
    assert gather(measured, Slo(7.0)).slos[Group("W1", "qps")].ttft_ms == 7.0


def test_files_that_were_measured_under_other_limits_keep_their_own() -> None:
    files = []
    for workload, slo in (("W1", Slo(9.0)), ("W2", Slo(2000.0)), ("W3", None)):
        found = comparison(("pd",), blocks=1, workloads=(workload,), loads=(1,))
        files.append((workload, replace(found, traffics=tuple(each.with_slo(slo) for each in found.traffics))))
    evidence = gather(together(files)[0])
    assert evidence.slos[Group("W1", "qps")] == Slo(9.0) and evidence.slos[Group("W2", "qps")] == Slo(2000.0)
    assert evidence.slos[Group("W3", "qps")].tpot_ms is not None, "derived, as nobody asked for any"
    assert evidence.slo_source.startswith("as asked where limits were given, else 2 times")


def test_hops_are_summed_over_workers_and_the_rest_is_other() -> None:
    phases = {
        "router": 3.0, "encode-leg": 40.0, "e-fetch": 10.0, "e-decode": 5.0, "e-encode": 25.0, "prefill-leg": 300.0,
        "p-queue": 20.0, "p-prefill": 200.0, "queue": 10.0, "transfer": 30.0, "prefill": 0.0,
    }  # fmt: skip
    told = replace(request("a", 1, 0.5, 0.01), phases_ms=phases)
    silent = request("b", 1, 0.5, 0.01)
    cell = gather(replace(results(), runs=(run("pd", (told, silent)),))).cells[0]
    assert cell.hops_ms == pytest.approx(
        {"queue": 30.0, "encode": 40.0, "prefill": 200.0, "handoff": 30.0, "other": 200.0, "decode": 40.0}
    )
    assert gather(replace(results(), runs=(run("pd", (silent,)),))).cells[0].hops_ms == {}


def test_missing_places_and_metrics_are_none() -> None:
    evidence = gather(comparison(workloads=("W1",), loads=(1,), blocks=1, turns=1))
    cell = evidence.cell(Place("W1", "qps", 1), "pd")
    assert cell is not None
    assert cell.get(REQUESTS) is not None and cell.get(TOKENS) is not None
    assert "ttft_later" not in cell.estimates
    assert evidence.cell(Place("W1", "qps", 2), "pd") is None


@pytest.mark.parametrize(
    ("form", "kinds", "word"),
    [("2A", "A", "Low"), ("1P3D", "PD", "Medium"), ("2E1P1D", "EPD", "High"), ("4E1A", "EA", "Medium"), ("", "", "-")],
)
def test_complexity_counts_kinds_of_workers(form: str, kinds: str, word: str) -> None:
    record = ArchitectureRecord("x", "pd", form, {}, 2, {}, {})
    assert (roles(record), complexity(record)) == (kinds, word)
