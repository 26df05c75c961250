"""The figures of a serving benchmark, and their export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.results.export import export
from tercet.results.lines import write_lines
from tercet.results.record import RequestRecord
from tercet.results.serving import peak_concurrency, peak_output, serving_figures
from tercet.results.slo import Slo, slo_from_flags
from tercet.results.summary import throughput

from .samples import failed, request, results, run


def sent(at_s: float, done_s: float) -> RequestRecord:
    return replace(request("c", 1, 0.1, 0.1), sent_s=at_s, due_s=at_s, done_s=done_s)


def test_the_figures_are_those_of_the_definitions() -> None:
    one = replace(request("a", 1, 0.5, 0.25), due_s=0.5, images=2, vision_tokens=8, expected_prompt_tokens=21)
    two = replace(request("b", 2, 1.0, 0.5), images=4, vision_tokens=16, retokenized_tokens=6)
    gone = replace(failed(request("c", 1, 0.1, 0.1)), failure="http_5xx")
    figures = serving_figures((run("pd", (one, two, gone)),), Slo(ttft_ms=600.0, tpot_ms=300.0))
    assert (figures.requests, figures.ok, dict(figures.failures), figures.duration_s) == (3, 2, {"http_5xx": 1}, 10.0)
    assert (figures.input_tokens, figures.text_tokens, figures.vision_tokens, figures.output_tokens) == (60, 36, 24, 10)
    assert (figures.requests_per_s, figures.input_per_s, figures.output_per_s) == (0.2, 6.0, 1.0)
    assert figures.goodput_per_s == 0.1 and figures.mismatched == 1 and figures.retokenized_tokens is None
    assert figures.ttft_ms == pytest.approx((500.0, 1000.0)) and figures.tpot_ms == pytest.approx((250.0, 500.0))
    assert figures.e2e_ms == pytest.approx((1500.0, 3000.0))
    assert figures.scheduled_ttft_ms == pytest.approx((1000.0, 1000.0))
    assert figures.mean_concurrency == pytest.approx(0.45) and len(figures.itl_ms) == 8
    assert figures.images is not None and (figures.images.low, figures.images.high) == (0, 4)


def test_runs_of_one_load_are_taken_together() -> None:
    runs = [run("pd", (request(f"c{i}", 1, 0.5, 0.1),), number=i) for i in range(3)]
    figures = serving_figures(runs)
    assert (figures.requests, figures.duration_s, figures.requests_per_s) == (3, 30.0, 0.1)


def answered(at_s: float, first_s: float, last_s: float) -> RequestRecord:
    """Return an answer of two pieces of five tokens."""
    return replace(sent(at_s, last_s), chunk_s=(first_s, last_s), output_tokens=10)


def test_a_steady_window_counts_alone() -> None:
    steady = replace(run("pd", tuple(answered(i, i + 0.5, i + 0.75) for i in range(10))), window_s=(2.0, 6.0))
    figures = serving_figures((steady,), Slo(ttft_ms=600.0))
    assert (figures.requests, figures.duration_s, figures.requests_per_s, figures.goodput_per_s) == (5, 4.0, 1.0, 1.0)
    assert (figures.output_per_s, figures.mean_concurrency) == pytest.approx((10.0, 0.75))


def test_an_overloaded_server_does_no_more_in_the_window_than_it_did() -> None:
    # One answer a second, two requests a second: those sent in the window are answered from 4 to 12 s.
    behind = tuple(answered(i / 2, i + 0.5, i + 1.0) for i in range(12))
    overloaded = replace(run("pd", behind), window_s=(2.0, 6.0))
    figures = serving_figures((overloaded,), Slo(ttft_ms=2500.0))
    assert (figures.requests, figures.ok) == (8, 8)
    assert (figures.requests_per_s, figures.output_per_s) == pytest.approx(throughput(overloaded))
    assert figures.requests_per_s == pytest.approx(5 / 4), "ended at 2, 3, 4, 5 and 6 s"
    assert figures.goodput_per_s == pytest.approx(4 / 4), "sent at 0.5, 1, 1.5 and 2 s: first tokens within 2.5 s"


def test_peak_concurrency_is_of_the_intervals() -> None:
    assert peak_concurrency([sent(0, 10), sent(11, 20), sent(15, 30)]) == 2
    # Binned by the second, these two would have been at once.
    assert peak_concurrency([sent(0, 0.4), sent(0.5, 0.9)]) == 1
    assert peak_concurrency([sent(0, 1), sent(1, 2)]) == 1  # one ends at the instant the other starts
    assert peak_concurrency([replace(sent(0, 5), failure="not_sent"), sent(1, 2)]) == 1
    assert peak_concurrency([]) == 0


def test_the_busiest_second_may_begin_anywhere() -> None:
    pieces = replace(request("c", 1, 0.1, 0.1), chunk_s=(0.9, 1.0, 1.1, 3.0), output_tokens=8)
    assert peak_output([pieces]) == 6.0
    assert peak_output([replace(pieces, chunk_tokens=(1, 1, 1, 5))]) == 5.0


def test_slos_are_read_and_judged() -> None:
    slo = slo_from_flags(("ttft:500", "tpot:30"))
    assert slo == Slo(500.0, 30.0) and str(slo) == "ttft:500 tpot:30" and slo_from_flags(()) is None
    single = request("c", 1, 0.4, 0.1, tokens=1)
    assert slo.met_by(single) and not slo.met_by(request("c", 1, 0.4, 0.1)) and not slo.met_by(failed(single))
    for wrong in ("ttft", "ttft:x", "ttft:-1", "speed:3"):
        with pytest.raises(UsageError, match="--slo"):
            slo_from_flags((wrong,))
    with pytest.raises(UsageError, match="--slo gives ttft two limits"):
        slo_from_flags(("ttft:500", "tpot:30", "ttft:300"))


def test_exports_have_the_other_tools_names(tmp_path: Path) -> None:
    measured = results()
    (path, _) = export(measured, tmp_path / "r.json", "vllm")
    theirs = json.loads(path.read_text())
    assert path.name == "r-vllm-pd-qps1-r0.json" and theirs["completed"] == 2 and theirs["request_rate"] == 1.0
    assert theirs["ttfts"] == pytest.approx([0.5, 0.25]) and theirs["mean_e2el_ms"] == pytest.approx(415.0)
    assert theirs["itls"][0] == pytest.approx([0.01] * 4) and theirs["output_lens"] == [5, 5]
    summary, records, *_ = export(measured, tmp_path / "r.json", "aiperf", Slo(ttft_ms=300.0))
    told = json.loads(summary.read_text())
    assert told["inter_token_latency"]["avg"] == pytest.approx(10.0)  # AIPerf's ITL is our TPOT
    assert told["request_latency"]["p50"] == pytest.approx(415.0) and told["goodput"]["avg"] == pytest.approx(0.1)
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert lines[1]["metadata"]["turn_index"] == 1 and lines[0]["metrics"]["time_to_first_token"]["unit"] == "ms"
    assert lines[0]["metrics"]["inter_chunk_latency"]["value"] == pytest.approx([10.0] * 4)


def test_every_request_is_a_line(tmp_path: Path) -> None:
    path = write_lines(results(), tmp_path / "r.json")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "r-requests.jsonl" and len(lines) == sum(len(run.requests) for run in results().runs)
    assert (lines[0]["architecture"], lines[0]["load_kind"], lines[0]["turn"]) == ("pd", "qps", 1)
    assert lines[-1]["error"] == "503 no worker"
