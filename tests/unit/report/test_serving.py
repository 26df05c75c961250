"""The block that users of other benchmarks know, and the line of a load that runs."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import pytest
from rich.console import Console

from tercet.bench.tally import Tally
from tercet.report import live
from tercet.report.live import LoadView, Meter
from tercet.report.serving import serving_block
from tercet.results.slo import Slo
from tests.unit.results.samples import failed, request, run


def value(lines: list[str], name: str) -> str:
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return line.partition(":")[2].strip()


def test_the_block_is_complete() -> None:
    gone = replace(failed(request("c", 1, 0.1, 0.1)), failure="closed")
    shown = replace(request("a", 1, 0.5, 0.25), images=3, vision_tokens=8)
    lines = serving_block([run("pd", (shown, gone))], slo=Slo(ttft_ms=501.0), percentiles=(95.0, 99.9))
    assert lines[0] == "============ Serving Benchmark Result ============" and set(lines[-1]) == {"="}
    assert value(lines, "Successful requests") == value(lines, "Failed requests") == value(lines, "  closed") == "1"
    assert value(lines, "Total input text tokens") == "12" and value(lines, "Total input vision tokens") == "8"
    assert value(lines, "Total generated tokens (retokenized)") == "n/a"
    assert value(lines, "Images per request") == "min=0, max=3, mean=1.50"
    assert (
        value(lines, "Request goodput (req/s)") == "0.10"
        and value(lines, "Goodput counts answers within") == "ttft:501"
    )
    assert value(lines, "Max request concurrency") == "not set" and value(lines, "Traffic request rate") == "1"
    for metric in ("E2E Latency", "TTFT", "TPOT", "ITL"):
        for point in ("Mean", "Median", "P95", "P99.9", "Max"):
            assert any(line.startswith(f"{point} {metric} (ms):") for line in lines), (point, metric)
    assert "---------------Time to First Token----------------" in lines
    for name in ("Peak output token throughput (tok/s)", "Concurrency", "Peak concurrent requests"):
        assert float(value(lines, name)) > 0


def test_what_nothing_has_is_not_zero() -> None:
    lines = serving_block([run("pd", (request("a", 1, 0.5, 0.1, tokens=1),))])
    assert value(lines, "Mean TPOT (ms)") == value(lines, "Max ITL (ms)") == "n/a"
    assert lines.count("Mean TTFT (ms):                          500.00") == 2  # from sending, and from schedule


def test_an_invalid_run_says_so() -> None:
    late = replace(run("pd", (request("a", 1, 0.5, 0.1),)), invalid_reasons=("the client was late: x",), complete=False)
    lines = serving_block([late, replace(late, block=1, invalid_reasons=(), complete=True)])
    assert "INVALID: run 1 the client was late: x" in lines
    assert any(line.startswith("INTERRUPTED: run 1") for line in lines)


def test_a_meter_tells_current_rates() -> None:
    times = iter([0.0, 2.0, 4.0, 5.0])
    tally = Tally()
    meter = Meter("W1", 40, tally, lambda: next(times))
    tally.sent, tally.done, tally.chunks = 12, 8, 100
    assert meter.line() == "W1: 8/40 requests, 4 under way; now 4.0 requests/s, 50 pieces/s"
    tally.sent, tally.done, tally.failed = 20, 20, 3
    assert meter.line() == "W1: 20/40 requests, 0 under way, 3 failed; now 6.0 requests/s, 0 pieces/s"
    assert meter.final() == "W1: 20/40 requests, 3 failed in 5.0 s"
    assert Meter("W1", None, tally, lambda: 0.0).final() == "W1: 20 requests, 3 failed in 0.0 s"


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_running_load_is_shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(live, "PLAIN_EVERY_S", 0.01)
    monkeypatch.setattr(live, "REFRESH_S", 0.01)
    out = io.StringIO()
    with LoadView(Console(file=out, force_terminal=terminal, highlight=False, width=120)).running(
        "W1", 4, Tally(sent=3, done=1)
    ):
        async with asyncio.timeout(20):
            while "under way" not in out.getvalue():
                await asyncio.sleep(0.01)
    assert "W1: 1/4 requests, 2 under way" in out.getvalue() and "W1: 1/4 requests in" in out.getvalue()
