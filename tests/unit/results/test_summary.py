"""Figures from records."""

from __future__ import annotations

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
    assert figures.p99 == pytest.approx(3 + 0.97 * 7)
    assert spread([]) is None


def test_a_mode_is_summed_up_by_turn_over_all_its_runs() -> None:
    runs = [
        run("pd", (request("c0", 1, 0.5, 0.01), request("c0", 2, 0.25, 0.01)), number=0),
        run("pd", (request("c0", 1, 0.7, 0.01), failed(request("c0", 2, 0.1, 0.01))), number=1),
        run("pd", (request("c0", 1, 9.0, 0.01),), qps=2.0),
    ]
    slow, fast = summarise(runs, {"pd": 2})
    assert (slow.mode, slow.qps, slow.devices, slow.runs, fast.qps) == ("pd", 1.0, 2, 2, 2.0)
    first, second = slow.turns
    assert first.ttft_ms is not None and second.ttft_ms is not None
    assert first.ttft_ms.mean == pytest.approx(600)
    assert (second.requests, second.ok, second.success) == (2, 1, 0.5)
    assert second.ttft_ms.mean == pytest.approx(250)
    assert (second.prompt_tokens, second.cached_tokens, second.external_tokens) == (40, 16, 8)
    assert slow.overall.success == 0.75
    assert slow.requests_per_s == pytest.approx((0.2 + 0.1) / 2)
    assert slow.output_tokens_per_s == pytest.approx((1.0 + 0.5) / 2)


def test_a_failure_counts_for_success_but_not_for_latency_or_throughput() -> None:
    broken = run("pd", (failed(request("c0", 1, 0.5, 0.01)),))
    (summary,) = summarise([broken], {})
    assert throughput(broken) == (0.0, 0.0)
    assert summary.overall.ttft_ms is None
    assert summary.overall.cached_tokens is None
    assert summary.overall.success == 0.0
