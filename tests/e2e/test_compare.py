"""`tercet compare` and `tercet bench` as a user runs them, on the tiny random model."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tercet.results.document import Results
from tercet.results.file import read

from .conftest import TINY, Serve, wait_until

pytestmark = pytest.mark.slow

TRAFFIC = ("--workload", "48/6", "--scale", "1", "--turns", "3", "--num-requests", "9", "--qps", "20", "--seed", "4")


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tercet", *arguments, *TRAFFIC, "--output", str(folder)]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)


def only_results(folder: Path) -> Results:
    (path,) = folder.glob("tercet-*.json")
    return read(path)


def test_three_modes_are_compared_and_agree(tmp_path: Path) -> None:
    process = start(tmp_path, "compare", *TINY, "--modes", "replicated,pd,ppd")
    assert process.wait(110) == 0, (tmp_path / "err").read_text()[-3000:]
    results = only_results(tmp_path)
    assert [run.mode for run in results.runs] == ["replicated", "pd", "ppd"]
    assert all(len(run.finished) == 9 for run in results.runs)
    assert results.answers is not None
    assert (results.answers.compared, results.answers.equal) == (9, 9)
    routes = {run.mode: {(request.turn, request.route) for request in run.requests} for run in results.runs}
    assert routes["pd"] == {(1, "P0>D0"), (2, "P0>D0"), (3, "P0>D0")}
    assert routes["ppd"] == {(1, "P0>D0"), (2, "D0"), (3, "D0")}
    for run in results.runs:
        later = [request for request in run.requests if request.turn > 1]
        assert all((request.cached_tokens or 0) >= 48 for request in later)
    page = (tmp_path / "out").read_text()
    same = "9 of 9 answers have the same tokens in every architecture."
    for words in ("replicated", "TTFT turns 2-3", same, "Results: "):
        assert words in page


def test_ctrl_c_stops_everything_and_keeps_what_was_measured(tmp_path: Path) -> None:
    process = start(tmp_path, "compare", *TINY, "--modes", "replicated,pd", "--runs", "50")
    wait_until(lambda: "[2/100] pd" in (tmp_path / "err").read_text(), 90, "the second block never ended")
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    results = only_results(tmp_path)
    assert results.interrupted
    assert [run.mode for run in results.runs][:2] == ["replicated", "pd"]
    assert "Interrupted: everything is stopped" in (tmp_path / "err").read_text()


def test_a_running_server_is_measured_from_outside(split_shm: Serve, tmp_path: Path) -> None:
    process = start(tmp_path, "bench", split_shm.url)
    assert process.wait(60) == 0, (tmp_path / "err").read_text()[-3000:]
    (run,) = only_results(tmp_path).runs
    assert run.mode == "pd"
    assert len(run.finished) == 9
