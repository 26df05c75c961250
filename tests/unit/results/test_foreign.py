"""Results of other tools, as those tools write them (samples of real files, shortened)."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from tercet.core.errors import UsageError
from tercet.results.export import export
from tercet.results.file import to_json, validate, write
from tercet.results.foreign import read_any, read_foreign
from tercet.results.serving import serving_figures

from .samples import results

SAMPLES = Path(__file__).parent / "foreign"


@pytest.mark.parametrize(
    ("name", "tool", "failure"),
    [
        ("vllm.json", "vllm bench serve", "closed"),
        ("profile_export_aiperf.json", "AIPerf", "http_5xx"),
        ("guidellm.json", "GuideLLM", "closed"),
    ],
)
def test_a_file_becomes_results(name: str, tool: str, failure: str) -> None:
    found = read_any(SAMPLES / name)
    validate(to_json(found), name)
    (run,) = found.runs
    assert (run.workload, found.model, run.load_kind) == (tool, "truth", "concurrency")
    assert run.load == (32.0 if tool.startswith("vllm") else 4.0)
    assert [request.failure for request in run.requests if not request.ok] == [failure]
    assert tool in found.notes[0] and run.duration_s > 0 and len(found.summaries) == 1


def test_vllms_metrics_are_its_own() -> None:
    theirs = json.loads((SAMPLES / "vllm.json").read_text())
    figures = serving_figures(read_foreign(SAMPLES / "vllm.json").runs)
    assert figures.ttft_ms == pytest.approx([ttft * 1e3 for ttft in theirs["ttfts"][:3]])
    gaps = [gap * 1e3 for itls in theirs["itls"] for gap in itls]
    assert sorted(figures.itl_ms) == pytest.approx(sorted(gaps))
    # As it computes TPOT: (latency - ttft) / (output_len - 1), the latency ending with the last token.
    assert figures.tpot_ms == pytest.approx([sum(itls) * 1e3 / 7 for itls in theirs["itls"][:3]])


def test_aiperfs_inter_token_latency_is_our_tpot() -> None:
    lines = [json.loads(line) for line in (SAMPLES / "profile_export.jsonl").read_text().splitlines()]
    metrics = [line["metrics"] for line in lines[:2]]
    figures = serving_figures(read_foreign(SAMPLES / "profile_export_aiperf.json").runs)
    for ours, theirs in (
        (figures.ttft_ms, "time_to_first_token"),
        (figures.tpot_ms, "inter_token_latency"),
        (figures.e2e_ms, "request_latency"),
    ):
        assert sorted(ours) == pytest.approx(sorted(each[theirs]["value"] for each in metrics), abs=0.01), theirs
    assert fmean(figures.itl_ms) == pytest.approx(fmean(g for m in metrics for g in m["inter_chunk_latency"]["value"]))
    alone = read_any(SAMPLES / "profile_export.jsonl")
    assert alone.runs[0].load_kind == "qps" and serving_figures(alone.runs).ttft_ms == pytest.approx(figures.ttft_ms)


def test_guidellms_tpot_is_not_ours() -> None:
    requests = json.loads((SAMPLES / "guidellm.json").read_text())["benchmarks"][0]["requests"]["successful"]
    figures = serving_figures(read_foreign(SAMPLES / "guidellm.json").runs)
    # Its times are Unix seconds: a float of that size is good for a microsecond's half.
    assert sorted(figures.ttft_ms) == pytest.approx(sorted(r["time_to_first_token_ms"] for r in requests), abs=0.01)
    assert sorted(figures.tpot_ms) == pytest.approx(sorted(r["inter_token_latency_ms"] for r in requests), abs=0.01)
    assert min(r["time_per_output_token_ms"] for r in requests) > max(figures.tpot_ms) + 2  # it includes TTFT
    assert figures.itl_ms and fmean(figures.itl_ms) == pytest.approx(fmean(figures.tpot_ms), rel=0.01)


@pytest.mark.parametrize("format_", ["vllm", "aiperf"])
def test_what_is_exported_reads_back(tmp_path: Path, format_: str) -> None:
    measured = results()
    ours = serving_figures(measured.runs[:1])
    again = serving_figures(read_any(export(measured, tmp_path / "r.json", format_)[0]).runs)
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        assert sorted(getattr(again, name)) == pytest.approx(sorted(getattr(ours, name)))
    assert (again.output_tokens, again.input_tokens) == (ours.output_tokens, ours.input_tokens)


def test_our_own_files_are_read_as_ever(tmp_path: Path) -> None:
    path = write(results(), tmp_path)
    assert to_json(read_any(path)) == to_json(results())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as an editor on Windows may save it
    assert to_json(read_any(path)) == to_json(results())


def test_another_tools_lines_may_hold_any_text(tmp_path: Path) -> None:
    lines = (SAMPLES / "profile_export.jsonl").read_text().rstrip("\n").split("\n")
    entry = json.loads(lines[0])
    entry["error"] = {"message": "it said:\u2028no\x85", "type": "Other"}
    path = tmp_path / "profile_export.jsonl"
    text = "\r\n".join([json.dumps(entry, ensure_ascii=False), *lines[1:]])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    read = read_any(path).runs[0].requests
    assert len(read) == len(read_any(SAMPLES / "profile_export.jsonl").runs[0].requests)
    assert any("\u2028no" in (request.error or "") for request in read)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"request_throughput": 1, "total_output_tokens": 1, "completed": 1}, "--save-detailed"),
        ({"input_config": {}, "request_latency": {}}, "profile_export.jsonl is not beside it"),
        ({"benchmarks": [{"requests": {"successful": [], "errored": []}}]}, "no requests"),
        ({"benchmarks": [{"requests": {"successful": [{"output_tokens": "x"}], "errored": []}}]}, "not as its tool"),
        ({"anything": 1}, "of no known tool"),
    ],
)
def test_a_file_without_requests_says_what_to_do(tmp_path: Path, content: object, why: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=why) as caught:
        read_foreign(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't read"):
        read_any(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text("{oh")
    with pytest.raises(UsageError, match="not JSON"):
        read_any(tmp_path / "odd.json")
