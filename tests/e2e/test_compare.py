"""`tercet compare` and `tercet bench` as a user runs them, on the tiny random model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tercet.compare.journal import Journal
from tercet.results.document import Results
from tercet.results.file import read

from .conftest import TINY, Serve, wait_until

pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen[bytes]]

TRAFFIC = ("--workload", "48/6", "--scale", "1", "--turns", "3", "--num-requests", "9", "--qps", "20", "--seed", "4")


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `tercet ...` with tiny traffic; what a failed test leaves running is stopped, and stops its own."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tercet", *arguments, *TRAFFIC, "--output", str(folder)]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            begun.append(subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True))
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.wait(60)


def only_results(folder: Path) -> Results:
    (path,) = folder.glob("tercet-*.json")
    return read(path)


def test_three_modes_are_compared_and_agree(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path, "compare", *TINY, "--modes", "replicated,pd,ppd", "--blocks", "1", "--keep", "warm")
    assert process.wait(280) == 0, (tmp_path / "err").read_text()[-3000:]
    results = only_results(tmp_path)
    runs = {run.architecture: run for run in results.runs}
    assert set(runs) == {"replicated", "pd", "ppd"}
    assert all(len(run.finished) == 9 for run in results.runs)
    assert results.answers is not None
    assert (results.answers.compared, results.answers.equal) == (9, 9)
    routes = {label: {(request.turn, request.route) for request in run.requests} for label, run in runs.items()}
    assert routes["pd"] == {(1, "P0>D0"), (2, "P0>D0"), (3, "P0>D0")}
    assert routes["ppd"] == {(1, "P0>D0"), (2, "D0"), (3, "D0")}
    for run in results.runs:
        later = [request for request in run.requests if request.turn > 1]
        assert all((request.cached_tokens or 0) >= 48 for request in later)
    busy = {(stage.worker, stage.stage) for stage in runs["pd"].stages if stage.busy_fraction > 0}
    assert busy == {("prefill-0", "prefill"), ("decode-0", "decode")}
    assert {found.architecture for found in results.interference} == {"replicated", "pd", "ppd"}
    page = (tmp_path / "out").read_text()
    same = "9 of 9 answers have the same tokens in every architecture."
    for words in ("replicated", "TTFT turns 2-3", same, "Busy share of each stage", "Results: "):
        assert words in page
    assert not list(tmp_path.glob("*.journal"))


def test_ctrl_c_stops_everything_and_keeps_what_was_measured(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path, "compare", *TINY, "--modes", "replicated,pd", "--blocks", "50", "--no-probe")
    wait_until(lambda: "[2/100] " in (tmp_path / "err").read_text(), 140, "the second run never ended")
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 130
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    results = only_results(tmp_path)
    assert results.interrupted
    assert {run.architecture for run in results.runs[:2]} == {"replicated", "pd"}
    assert "Interrupted: everything is stopped" in (tmp_path / "err").read_text()
    assert list(tmp_path.glob("*.journal"))


def test_what_was_killed_goes_on_where_it_stopped(start: Start, tmp_path: Path) -> None:
    line = ("compare", *TINY, "--modes", "pd,ppd", "--blocks", "3", "--no-probe")
    process = start(tmp_path, *line)
    wait_until(lambda: "[3/6] " in (tmp_path / "err").read_text(), 140, "the third run never ended")
    process.kill()
    process.wait(60)
    (journal,) = tmp_path.glob("*.journal")
    before = Journal.read(journal, _plan_in(journal))
    before.close()
    assert 2 <= len(before.kept.runs) < 6
    again = start(tmp_path, *line, "--resume", "auto")
    assert again.wait(140) == 0, (tmp_path / "err").read_text()[-3000:]
    results = only_results(tmp_path)
    assert sorted((run.architecture, run.block) for run in results.runs) == [
        (label, block) for label in ("pd", "ppd") for block in range(3)
    ]
    times = {(run.architecture, run.block): run.started_at for run in results.runs}
    assert all(times[run.architecture, run.block] == run.started_at for run in before.kept.runs)
    for block in range(3):
        assert len({run.salt for run in results.runs if run.block == block}) == 1
    assert results.answers is not None
    assert (results.answers.compared, results.answers.equal) == (27, 27)
    assert not journal.exists()


def test_a_slower_device_is_named_the_loser(tmp_path: Path) -> None:
    """The slow one takes three times as long: far beyond the noise of a loaded machine, in five blocks."""
    archs = []
    for name, slowdown in (("fast", 10), ("slow", 30)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            f"{{workers: 1A, mode: aggregated, devices: ['cpu:0'],"
            f" engine: {{engine: virtual, random_weights: tiny, gpu_slowdown: {slowdown}}}}}"
        )
        archs.append(f"--arch={name}={path}")
    output = tmp_path / "out"
    line = [*archs, "--workload=64/8", "--scale=1", "--turns=1", "--concurrency=2", "--num-requests=6", "--keep=warm"]
    command = [sys.executable, "-m", "tercet", "compare", *line, "--no-probe", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = output.glob("*.json")
    results = read(path)
    winners = {verdict.metric: verdict.winner for verdict in results.verdicts if verdict.primary}
    assert winners == {"ttft": "fast", "throughput": "fast"}
    assert results.answers is not None
    assert (results.answers.must_agree, results.answers.compared, results.answers.equal) == (True, 30, 30)


def _plan_in(journal: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(journal.read_text().splitlines()[0])["plan"]
    return plan


def test_a_running_server_is_measured_from_outside(start: Start, split_shm: Serve, tmp_path: Path) -> None:
    process = start(tmp_path, "bench", split_shm.url)
    assert process.wait(280) == 0, (tmp_path / "err").read_text()[-3000:]
    (run,) = only_results(tmp_path).runs
    assert run.mode == "pd"
    assert len(run.finished) == 9
