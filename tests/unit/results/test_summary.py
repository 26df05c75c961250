"""Figures from records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tercet.results.summary import spread, summarise, throughput

from .samples import failed, request, run


def test_metrics_follow_their_definitions() -> None:
    record = request("c0", 1, ttft_s=0.5, tpot_s=0.01, tokens=11)
    assert record.ttft_ms == pytest.approx(500)
    assert record.e2e_ms == pytest.approx(600)
    assert record.tpot_ms == pytest.approx(10)
    assert request("c0", 1, 0.5, 0.01, tokens=1).tpot_ms is None


def test_spread_interpolates_between_the_nearest() -> None:
    figures = spread([1.0, 2.0, 3.0, 10.0])
    assert figures is not None
    assert (figures.count, figures.mean, figures.p50) == (4, 4.0, 2.5)
    assert (figures.p95, figures.p99, figures.max) == pytest.approx((3 + 0.85 * 7, 3 + 0.97 * 7, 10.0))
    assert spread([]) is None


def test_a_mode_is_summed_up_by_turn_over_all_its_runs() -> None:
    runs = [
        run("pd", (request("c0", 1, 0.5, 0.01), request("c0", 2, 0.25, 0.01)), number=0),
        run("pd", (request("c0", 1, 0.7, 0.01), failed(request("c0", 2, 0.1, 0.01))), number=1),
        run("pd", (request("c0", 1, 9.0, 0.01),), qps=2.0),
    ]
    slow, fast = summarise(runs, {"pd": 2})
    assert (slow.architecture, slow.load, slow.devices, slow.runs, fast.load) == ("pd", 1.0, 2, 2, 2.0)
    first, second = slow.turns
    assert first.ttft_ms is not None and second.ttft_ms is not None
    assert first.ttft_ms.mean == pytest.approx(600)
    assert (second.requests, second.ok, second.success) == (2, 1, 0.5)
    assert second.ttft_ms.mean == pytest.approx(250)
    assert (second.prompt_tokens, second.cached_tokens, second.external_tokens) == (40, 16, 8)
    assert slow.overall.success == 0.75
    assert slow.requests_per_s == pytest.approx((0.2 + 0.1) / 2)
    assert slow.output_tokens_per_s == pytest.approx((1.0 + 0.5) / 2)


def test_a_run_that_is_no_evidence_is_in_no_figure_unless_there_are_no_others() -> None:
    good = [run("pd", (request("c0", 1, 0.1, 0.01),), number=number) for number in range(2)]
    late = replace(run("pd", (request("c0", 1, 5.0, 0.01),), number=2), invalid_reasons=("the client was late",))
    (summary,) = summarise([*good, late], {})
    assert (summary.runs, summary.invalid_runs, summary.overall.requests) == (3, 1, 2)
    assert summary.overall.ttft_ms is not None and summary.overall.ttft_ms.max == pytest.approx(100)
    (alone,) = summarise([late], {})
    assert alone.overall.ttft_ms is not None and alone.overall.ttft_ms.max == pytest.approx(5000)


def test_a_failure_counts_for_success_but_not_for_latency_or_throughput() -> None:
    broken = run("pd", (failed(request("c0", 1, 0.5, 0.01)),))
    (summary,) = summarise([broken], {})
    assert throughput(broken) == (0.0, 0.0)
    assert summary.overall.ttft_ms is None
    assert summary.overall.cached_tokens is None
    assert summary.overall.success == 0.0


def test_only_the_steady_window_counts_for_throughput_where_there_is_one() -> None:
    # Pieces at 1.5, 1.6, 1.7, 1.8 and 1.9 s; two of five lie in the window, and the answer ends after it.
    whole = run("pd", (request("c0", 1, 0.5, 0.1),))
    assert throughput(replace(whole, window_s=(1.0, 1.65))) == pytest.approx((0.0, 2 / 0.65))
    assert throughput(replace(whole, window_s=(1.0, 2.0))) == pytest.approx((1.0, 5.0))
    assert throughput(replace(whole, window_s=(2.0, 2.0))) == (0.0, 0.0)


def test_workloads_loads_and_architectures_are_kept_apart() -> None:
    one = run("pd", (request("c0", 1, 0.5, 0.01),))
    runs = [replace(one, workload="W2"), replace(one, load_kind="concurrency", load=4.0), one]
    runs += [replace(one, architecture="slow pd", load=0.5), replace(one, workload="W2", load=0.5)]
    places = [(s.workload, s.load_kind, s.load, s.architecture) for s in summarise(runs, {})]
    assert places == [
        ("W2", "qps", 0.5, "pd"),
        ("W2", "qps", 1.0, "pd"),
        ("W1", "qps", 0.5, "slow pd"),
        ("W1", "qps", 1.0, "pd"),
        ("W1", "concurrency", 4.0, "pd"),
    ]


def test_phases_and_gaps_are_summed_up() -> None:
    records = (
        replace(request("c0", 1, 0.5, 0.01), phases_ms={"prefill": 10.0, "queue": 1.0}),
        replace(request("c1", 1, 0.5, 0.03), phases_ms={"prefill": 20.0}),
    )
    (summary,) = summarise([run("pd", records)], {})
    assert summary.overall.phases_ms == {"prefill": 15.0, "queue": 1.0}
    assert summary.overall.itl_ms is not None
    assert summary.overall.itl_ms.mean == pytest.approx(20)
