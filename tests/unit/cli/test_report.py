"""`tercet report` on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tercet.cli.main import main
from tercet.results.file import write

from ..report.synthetic import comparison


def tercet(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tercet", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_teaches() -> None:
    done = tercet("--help")
    assert done.returncode == 0
    for words in ("index.html", "qps_p99_ttft.png", "Examples:", "--slo ttft:500", "tercet compare --merge"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing argument"),
        (("nowhere.json",), "can't read nowhere.json"),
        (("not-json",), "is not JSON"),
        (("foreign.json",), "foreign.json"),
        (("good.json", "--slo", "speed:1"), "--slo 'speed:1': write ttft, tpot or e2e"),
        (("good.json", "--slo", "ttft:0"), "--slo 'ttft:0'"),
        (("folder",), "is a folder"),
        (("good.json", "./good.json"), "good.json is named twice: each file counts once"),
    ],
)
def test_wrong_input_exits_2(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "not-json").write_text("{")
    (tmp_path / "foreign.json").write_text('{"a": 1}')
    (tmp_path / "folder").mkdir()
    write(comparison(blocks=1, workloads=("W1",), loads=(1,)), tmp_path).rename(tmp_path / "good.json")
    monkeypatch.setattr(sys, "argv", ["tercet", "report", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_prints_its_tables_and_where_it_is(tmp_path: Path) -> None:
    path = write(comparison(blocks=3, workloads=("W1",), loads=(1, 4)), tmp_path)
    done = tercet(path, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for words in (
        "Median TTFT (ms), lower is better",
        "recommendations",
        "Resources",
        "In time to first token",
        "Report:",
    ):
        assert words in done.stdout
    assert (tmp_path / "out" / "index.html").is_file()
    again = write(comparison(blocks=3, workloads=("W1",), loads=(1, 4)), tmp_path / "again")
    quiet = tercet(path, again, "-o", tmp_path / "out", "--no-tables")
    assert "Resources" not in quiet.stdout
    assert "did not run in pairs" in quiet.stdout
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"pd (again/{again.stem})" in page and f"pd ({tmp_path.name}/{path.stem})" in page, "files of one name"


@pytest.mark.slow
def test_other_tools_results_become_a_page(tmp_path: Path) -> None:
    samples = Path(__file__).parents[1] / "results" / "foreign"
    files = [samples / name for name in ("vllm.json", "profile_export_aiperf.json", "guidellm.json")]
    done = tercet(*files, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Serving Benchmark Result") == 3
    page = (tmp_path / "out" / "index.html").read_text()
    for tool in ("vllm bench serve", "AIPerf", "GuideLLM"):
        assert f"{tool}: Median TTFT" in page
    assert (tmp_path / "out" / "concurrency_p99_ttft.png").is_file()
