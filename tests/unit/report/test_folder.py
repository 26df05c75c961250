"""A whole report in a folder."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tercet.core.errors import MissingExtraError, UsageError
from tercet.report.crossover import drawn_curves
from tercet.report.csv_files import csv_files
from tercet.report.folder import write_report
from tercet.report.gather import gather
from tercet.report.several import together
from tercet.results.document import Results

from .synthetic import comparison

KEPT = (
    "qps_p99_ttft.png", "qps_avg_e2e.png", "qps_ratio_crossover.png", "qps_success_rate.png", "qps_throughput.png",
    "qps_throughput_comparison.png", "qps_crossover_analysis.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = comparison(
        workloads=("W1",), loads=(1, 4), blocks=3, conversations=3, invalid=("pd", 4), devices={"pd": 3}
    )
    hostile = replace(results, notes=("<script>alert(1)</script>",), command=("tercet", "compare", "--model", "a b"))
    return write_report(hostile, tmp_path_factory.mktemp("report")).parent


def test_the_reference_file_names_are_kept(folder: Path) -> None:
    for name in KEPT:
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"{")


def test_without_a_verdict_ratios_are_drawn_and_nothing_is_decided() -> None:
    results = replace(comparison(workloads=("W1",), loads=(1, 4), blocks=1), curves=(), verdicts=())
    curves = drawn_curves(results, gather(results))
    assert {(curve.first, curve.second) for curve in curves} == {
        ("replicated", "pd"),
        ("replicated", "ppd"),
        ("pd", "ppd"),
    }
    assert all(region.better is None for curve in curves for region in curve.regions)
    judged = comparison(workloads=("W1",), loads=(1, 4), blocks=3)
    assert drawn_curves(judged, gather(judged)) == judged.curves


def test_the_page_is_whole_in_itself(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    assert len(page) < 2_000_000
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "@import" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    links = set(re.findall(r'href="([^#"]+)"', page)) - {"data:,"}
    assert links == {path.name for path in folder.iterdir()} - {"index.html"}


def test_the_page_says_all_that_the_issue_asks_for(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    for words in (
        "In time to first token", "Recommendations by traffic level", "When it is useful, when it is not",
        "Median TTFT", "P99 TTFT", "Median TPOT", "P99 TPOT", "Median E2E", "P99 E2E", "Request throughput",
        "Success rate",
        "Who takes over where", "Throughput side by side", "Turn 1 against later turns", "output per device",
        "Where the time goes", "Goodput", "The client&#39;s own health", "Measure it again", "python 3.11.9", "Seed",
        "tercet compare --model &#39;a b&#39;", "cpu:0", "A &lt;fast&gt; CPU",
    ):  # fmt: skip
        assert words in page, words


def test_invalid_runs_and_unequal_devices_are_marked(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    assert "3 runs are INVALID and marked ✕: pd in W1, 4 requests/s." in page
    assert "UNEQUAL devices: replicated 2, pd 3, ppd 2" in page
    assert "3 of 18 runs are INVALID" in page
    assert page.count("✕") > 8


def test_what_results_say_is_not_markup(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_csvs_hold_every_figure_run_and_request(folder: Path) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((folder / name).open()))

    summary = rows("summary.csv")
    assert len(summary) == 6
    assert {"ttft_p50_ms", "ttft_p50_ms_low", "requests_per_s", "success_share", "goodput_requests_per_s"} <= set(
        summary[0]
    )
    assert len(rows("runs.csv")) == 18
    assert [row["valid"] for row in rows("runs.csv")].count("False") == 3
    requests = rows("requests.csv")
    assert len(requests) == 18 * 6
    assert float(requests[0]["ttft_ms"]) > 0
    assert len(rows("ratios.csv")) == 4


def test_a_request_of_the_fourth_hour_keeps_its_time_as_one_of_the_first_minute() -> None:
    results = comparison(("pd",), workloads=("W1",), loads=(1,), blocks=1)
    (run,) = results.runs
    late = replace(run.requests[0], due_s=12345.678901, sent_s=13000.0, chunk_s=(13000.0123, 13001.0))
    whole = replace(results, runs=(replace(run, requests=(late,)),))
    (row,) = csv.DictReader(csv_files(whole, gather(whole))["requests.csv"].splitlines())
    assert (row["due_s"], row["sent_s"], row["ttft_ms"]) == ("12345.678901", "13000", "12.3")


def test_formulas_do_not_run_in_spreadsheets() -> None:
    results = comparison(("pd",), workloads=("W1",), loads=(1,), blocks=1)
    run = replace(results.runs[0], architecture="=cmd()")
    assert "'=cmd()" in csv_files(replace(results, runs=(run,)), gather(replace(results, runs=(run,))))["runs.csv"]


def test_the_crossover_analysis_is_for_programs(folder: Path) -> None:
    analysis = json.loads((folder / "qps_crossover_analysis.json").read_text())
    assert analysis["architectures"] == ["replicated", "pd", "ppd"]
    assert analysis["unequal_devices"] is True
    found = analysis["workloads"]["W1"]
    assert found["loads"] == [1, 4]
    assert {crossover["second"] for crossover in found["crossovers"]} == {"pd", "ppd"}
    assert [row["load"] for row in found["recommendations"]] == [1, 4]


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(
        MissingExtraError, match=re.escape("tercet report needs an optional part: pip install 'tercet[report]'")
    ):
        write_report(comparison(blocks=1, workloads=("W1",), loads=(1,)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_measured_and_nowhere_to_write_are_wrong_use(tmp_path: Path) -> None:
    results = comparison(blocks=1, workloads=("W1",), loads=(1,))
    with pytest.raises(UsageError, match="hold no run"):
        write_report(replace(results, runs=()), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't write the report"):
        write_report(results, tmp_path / "file")


def test_several_files_are_drawn_together_but_not_judged() -> None:
    monday = comparison(("pd", "ppd"), workloads=("W1",), loads=(1, 4), blocks=3)
    tuesday = comparison(("pd", "aggregated"), workloads=("W1", "W2"), loads=(1, 4), blocks=3)
    other = replace(tuesday, traffics=(replace(tuesday.traffics[0], input_tokens=99), tuesday.traffics[1]), model="m2")
    joined, warnings = together([("monday", monday), ("tuesday", other)])
    assert gather(joined).labels == ("pd (monday)", "ppd", "pd (tuesday)", "aggregated")
    assert {traffic.workload for traffic in joined.traffics} == {"W1 (monday)", "W1 (tuesday)", "W2"}
    assert {verdict.workload for verdict in joined.verdicts} == {"W1 (monday)", "W1 (tuesday)", "W2"}
    assert all(set(verdict.values) <= set(gather(joined).labels) for verdict in joined.verdicts)
    assert {(curve.first, curve.second) for curve in joined.curves} == {
        ("pd (monday)", "ppd"),
        ("pd (tuesday)", "aggregated"),
    }
    assert any("did not run in pairs" in warning for warning in warnings)
    assert any("different models: smollm2-135m, m2" in warning for warning in warnings)
    assert together([("monday", monday)]) == (monday, ())


def test_who_keeps_a_name_keeps_it_in_the_words_of_a_crossover() -> None:
    """pd is renamed and ppd is not: the one is the end of the other."""
    monday = comparison(("pd", "ppd"), workloads=("W1",), loads=(1, 4), blocks=3)
    sentence = "ppd better up to 1, pd better from 4, undecided between"
    curves = tuple(replace(curve, sentence=sentence) for curve in monday.curves)
    tuesday = comparison(("pd", "aggregated"), workloads=("W1",), loads=(1, 4), blocks=3)
    joined, _ = together([("monday", replace(monday, curves=curves)), ("tuesday", tuesday)])
    assert joined.curves[0].sentence == "ppd better up to 1, pd (monday) better from 4, undecided between"


@pytest.mark.parametrize("option", ["images", "dataset_fingerprint"])
def test_workloads_of_other_pictures_or_another_data_set_are_other_workloads(option: str) -> None:
    files: list[tuple[str, Results]] = []
    for name, mode, said in (("one", "pd", "1-1"), ("eight", "ppd", "8-8")):
        results = comparison((mode,), workloads=("images",), loads=(1, 4), blocks=3)
        traffic = replace(results.traffics[0], options={option: said, "slo": f"ttft:{len(files) + 1}"})
        files.append((name, replace(results, traffics=(traffic,))))
    joined, _ = together(files)
    assert {traffic.workload for traffic in joined.traffics} == {"images (one)", "images (eight)"}
    alike = [(name, replace(results, traffics=files[0][1].traffics)) for name, results in files]
    assert {traffic.workload for traffic in together(alike)[0].traffics} == {"images"}
