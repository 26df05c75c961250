from __future__ import annotations

import pytest

from tercet.bench.health import judge
from tercet.bench.metrics import duration_s, metrics, peak_concurrency, percentile
from tercet.bench.result import RequestResult

MS = 1_000_000


def _result(turn: int, sent: int, chunks: tuple[int, ...], tokens: int, error: str | None = None) -> RequestResult:
    return RequestResult(
        "c",
        turn,
        (sent - 2) * MS,
        sent * MS,
        (max(chunks, default=sent) + 1) * MS,
        chunk_ns=tuple(chunk * MS for chunk in chunks),
        completion_tokens=tokens,
        prompt_tokens=10,
        cached_tokens=4,
        error=error,
        status=200,
    )


def test_the_definitions() -> None:
    result = _result(1, 100, (150, 160, 190), 5)
    assert (result.ttft_ms, result.e2e_ms, result.tpot_ms) == (50.0, 90.0, 10.0)
    assert result.itl_ms == (10.0, 30.0) and result.delay_ms == 2.0


@pytest.mark.parametrize("tokens", [0, 1])
def test_one_token_or_none_has_no_tpot(tokens: int) -> None:
    assert _result(1, 100, (150,), tokens).tpot_ms is None


def test_figures_per_turn_and_over_all() -> None:
    results = [
        _result(1, 0, (10, 20), 2),
        _result(1, 0, (30, 50), 2),
        _result(2, 100, (105,), 1),
        _result(2, 100, (), 0, error="HTTP 500"),
    ]
    everything, first, second = metrics(results)
    assert (everything.turn, everything.requests, everything.ok) == (None, 4, 3)
    assert first.ttft_ms is not None and (first.ttft_ms.mean, first.ttft_ms.p50, first.ttft_ms.max) == (20, 20, 30)
    assert first.tpot_ms is not None and first.tpot_ms.mean == 15
    assert first.scheduled_ttft_ms is not None and first.scheduled_ttft_ms.mean == 22
    assert (second.requests, second.ok, second.tpot_ms, second.itl_ms) == (2, 1, None, None)
    assert (everything.prompt_tokens, everything.cached_tokens, everything.completion_tokens) == (30, 12, 5)
    assert duration_s(results) == pytest.approx(0.106)
    assert metrics([])[0].ttft_ms is None


def test_peak_concurrency_is_exact() -> None:
    results = [_result(1, 0, (10,), 1), _result(1, 11, (20,), 1), _result(1, 15, (30,), 1)]
    assert peak_concurrency(results) == 2  # the first ends at the instant the second starts


def test_a_late_client_is_invalid() -> None:
    assert not judge([0.1] * 100, 50.0, [0.0], 0.1).invalid
    late = judge([0.1] * 98 + [6.0, 6.0], 50.0, [1.0, 2.0], 0.1)
    assert late.invalid and "late" in late.reasons[0] and late.for_results().saturated
    assert not judge([0.1] * 98 + [6.0, 6.0], 200.0, [], 0.1).invalid  # 5% of the median TTFT is 10 ms
    assert late.loop_lag_ms_max == 2.0 and late.send_delay_ms_max == 6.0


def test_percentiles_are_linear_between_neighbours() -> None:
    assert percentile([1.0, 2.0], 50) == 1.5 and percentile([3.0], 99) == 3.0
