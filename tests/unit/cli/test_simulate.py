from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.cli.main import build_app
from tercet.cli.simulating import parse_loss
from tercet.core.errors import UsageError
from tercet.latency.calibration_file import Calibration, write_calibration
from tercet.latency.measured import MeasuredOracle
from tercet.latency.stack import StackConstants
from tercet.results.file import read
from tercet.sim.simulate import WorkerLoss


def run(folder: Path, *arguments: str) -> Path:
    command = ["simulate", *arguments, "-o", str(folder)]
    with pytest.raises(SystemExit) as ended:
        build_app(command)(command)
    assert ended.value.code == 0
    return next(folder.glob("tercet-simulate-*Z.json"))


def test_a_prediction_is_a_results_file_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(tmp_path, "1P1D", "--model", "llama-3.1-8b", "--qps", "2,4", "--requests", "20", "--turns", "2")
    results = read(path)
    assert results.kind == "simulate"
    assert [run.load for run in results.runs] == [2.0, 4.0]
    assert all(len(request.chunk_s) == 256 for run in results.runs for request in run.requests)
    assert results.architectures[0].label == "pd predicted"
    assert any("PREDICTED, not measured" in note for note in results.notes)
    shown = capsys.readouterr().out
    assert "PREDICTED Serving Result" in shown
    assert "Load generator" not in shown


def test_loads_in_processes_give_the_same(tmp_path: Path) -> None:
    flags = ("2A", "--qps", "2,4", "--requests", "10", "--scale", "0.1")
    alone, shared = run(tmp_path / "a", *flags), run(tmp_path / "b", *flags, "--jobs", "2")
    runs = [json.loads(path.read_text())["runs"] for path in (alone, shared)]
    assert [run["requests"] for run in runs[0]] == [run["requests"] for run in runs[1]]


def test_results_are_kept_though_nobody_reads_what_is_printed(tmp_path: Path) -> None:
    """`tercet bench ... | head -3` ends the reading in mid-table: the measurement must not be lost with it."""
    command = (sys.executable, "-m", "tercet", "simulate", "1P1D", "--model", "llama-3.1-8b", "--requests", "4")
    with Path("/dev/full").open("w") as full:
        subprocess.run((*command, "-o", str(tmp_path)), stdout=full, stderr=subprocess.DEVNULL, timeout=60, check=False)
    (path,) = tmp_path.glob("tercet-simulate-*Z.json")
    assert len(read(path).runs) == 1 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("1P1D", "--gpu", "z9"), "unknown GPU"),
        (("1P1D", "--model", "gpt-9"), "no latencies are known of the model"),
        (("1P1D", "--stack", "nothing.yaml"), "neither a file nor one of"),
        (("1P1D", "--gpu", "h100", "--gpu-spec", "memory=80GB"), "two ways to name a GPU"),
        (("1P1D", "--memory-share", "2"), "--memory-share 2 is out of range"),
        (("1P1D", "--link", "0"), "--link 0 is out of range"),
        (("1P1D", "--qps", "1,2,1"), "--qps needs one or more different loads"),
        (("1P1D", "--gpu-spec", "memory=1.2.3GB,bandwidth=1TB,flops=1T"), "'memory=1.2.3GB' is not like memory=80GB"),
        (("1P1D", "--lose", "D7"), "write a worker and seconds"),
        (("1P1D", "--lose", "D7@1"), "no worker is called 'D7'"),
        (("1P1D", "--max-num-seqs", "0"), "--max-num-seqs 0 is out of range"),
        (("1P1D", "--workload", "100000/1000", "--turns", "4"), "conversations grow to"),
    ],
)
def test_wrong_use_is_told(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    command = ["simulate", *flags, "-o", str(tmp_path)]
    with pytest.raises(UsageError, match=said):
        build_app(command)(command)


def test_who_replays_a_file_is_not_told_to_lower_turns(tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text('{"input_length": 400000, "output_length": 9}')
    command = ["simulate", "1P1D", "--dataset", str(tmp_path / "trace.jsonl"), "-o", str(tmp_path)]
    with pytest.raises(UsageError, match=r"grow to 400009 tokens.*leave the longest conversations out of the data set"):
        build_app(command)(command)


def test_a_measured_machine_is_of_no_other_size(tmp_path: Path) -> None:
    oracle = MeasuredOracle(10.0, 1.0, 0.001, 0.5, 0.0001, 30.0, 23040, 11000)
    write_calibration(Calibration(StackConstants(1.0, 1.0, 1.0, source="a test"), oracle), tmp_path / "s.yaml")
    for command in ("simulate 1P1D --tp 2", "plan --tp 2"):
        words = [*command.split(), "--stack", str(tmp_path / "s.yaml")]
        with pytest.raises(UsageError, match=r"--tp 2: .*s\.yaml was measured on a machine as it is"):
            build_app(words)(words)


def test_losses_are_read() -> None:
    assert parse_loss("D1@30") == WorkerLoss("D1", 30.0)
    assert parse_loss("P0@1.5+20") == WorkerLoss("P0", 1.5, 20.0)


FOUR_AND_ONE = """
name: encoders-apart
model: qwen3-vl-30b-a3b
mode: epd
workers:
  - {name: encode-0, stages: [encode]}
  - {name: encode-1, stages: [encode], engine: {max_num_seqs: 4}}
  - {name: worker-0, stages: [prefill, decode], engine: {tensor_parallel: 4, gpu: h200}}
engine: {engine: sglang, gpu: h100, max_model_len: 8192, max_num_batched_tokens: 8192}
"""


def test_every_worker_has_the_gpus_and_the_limits_that_the_file_gives_it(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(FOUR_AND_ONE)
    flags = (str(tmp_path / "t.yaml"), "--workload", "200/2", "--images", "2", "--requests", "4")
    (own,) = read(run(tmp_path / "own", *flags)).architectures
    assert own.workers == {"encode-0": ("1 x h100",), "encode-1": ("1 x h100",), "worker-0": ("4 x h200",)}
    assert own.devices == 6
    assert own.engine["engine"] == "sglang, predicted" and "gpus_a_rank" not in own.engine
    assert (own.engine["encode-0 gpus_a_rank"], own.engine["worker-0 gpus_a_rank"]) == (1, 4)
    assert (own.engine["encode-0 max_num_seqs"], own.engine["encode-1 max_num_seqs"]) == (256, 4)
    assert "on h200, TP 4" in own.engine["worker-0 oracle"]
    (told,) = read(run(tmp_path / "told", *flags, "--tp", "2", "--gpu", "h100")).architectures
    assert set(told.workers.values()) == {("2 x h100",)} and told.devices == 6


def test_the_gpus_of_a_rank_make_its_steps_as_quick(tmp_path: Path) -> None:
    text = "{name: t, model: llama-3.1-8b, mode: aggregated, workers: 1A, engine: {engine: vllm, tensor_parallel: 4}}"
    (tmp_path / "t.yaml").write_text(text)
    means: list[float] = []
    for name, more in (("file", ()), ("flag", ("--tp", "4")), ("one", ("--tp", "1"))):
        (summary,) = read(run(tmp_path / name, str(tmp_path / "t.yaml"), "--requests", "8", *more)).summaries
        assert summary.overall.tpot_ms is not None
        means.append(summary.overall.tpot_ms.mean)
    assert means[0] == means[1] < 0.7 * means[2]
