from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.cli.main import build_app
from tercet.cli.plan_view import gpus_for
from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.launch.source import topology_from
from tercet.launch.topology_file import load_topology
from tercet.plan.architecture import Architecture

SMALL = ("--workload", "2048/16", "--qps", "2", "--gpus", "2", "--jobs", "1")


def run(folder: Path, *arguments: str) -> Path:
    """Return where the plan was written."""
    command = ["plan", *arguments, "-o", str(folder)]
    with pytest.raises(SystemExit) as ended:
        build_app(command)(command)
    assert ended.value.code == 0
    return next(folder.glob("tercet-plan-*Z.json"))


def test_a_plan_ranks_recommends_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--slo", "ttft:500", "--slo", "tpot:20", "--price", "3.6")
    path = run(tmp_path, "--model", "llama-3.1-8b", "--gpu", "h100", *SMALL, *limits)
    document = json.loads(path.read_text())
    names = [each["architecture"] for each in document["standings"]]
    assert {"2A aggregated", "1P1D pd", "1A aggregated TP2"} == set(names)
    assert document["load"] == 2.0 and document["met"] and document["gpus"] == 2
    shown = capsys.readouterr().out
    for wanted in (f"Recommended: {names[0]}", "goodput/s", "bears", "What would change the choice", "not measured"):
        assert wanted in shown, wanted
    assert len({len(curve) for curve in document["curves"].values()}) > 1
    assert " is best of those simulated there\n" in shown, "at the highest load, which not all can bear"
    # 2 GPUs at 3.6 an hour are 0.002 a second.
    runs = document["standings"][0]["runs"]
    goodput = sum(run["goodput"] for run in runs) / len(runs)
    cost = 0.002 / (goodput * 16) * 1e6
    assert f" {cost:.2f}" in shown, "of 16 tokens each"
    topology = load_topology(path.with_suffix(".yaml"))
    assert path.with_suffix(".yaml").read_text().startswith("# Recommended by: tercet "), "a command that can be typed"
    assert f"{topology.short_form} {topology.mode}" == names[0].removesuffix(" TP2")
    assert topology.engine.tensor_parallel == (2 if names[0].endswith("TP2") else 1)
    assert topology.model == "meta-llama/Llama-3.1-8B-Instruct" and topology.engine.engine == "vllm"
    assert topology_from(str(path.with_suffix(".yaml")), None) == topology
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_is_kept_though_nobody_reads_what_is_printed(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tercet", "plan", "--model", "llama-3.1-8b", *SMALL, "--gpus", "1")
    with Path("/dev/full").open("w") as full:
        subprocess.run((*command, "-o", str(tmp_path)), stdout=full, stderr=subprocess.DEVNULL, timeout=60, check=False)
    assert {path.suffix for path in tmp_path.iterdir()} == {".yaml", ".json", ".png"}


@pytest.mark.parametrize(
    ("architecture", "share", "gpus"),
    [
        (Architecture(Mode.AGGREGATED, whole=8), 0.26, 3),
        (Architecture(Mode.AGGREGATED, tp=4, whole=2), 0.03, 4),
        (Architecture(Mode.AGGREGATED, tp=4, whole=2), 0.6, 8),
        (Architecture(Mode.PD, prefill=2, decode=6), 0.01, 2),
        (Architecture(Mode.EPD, tp=2, encode=1, prefill=1, decode=2), 0.5, 6),
    ],
    ids=lambda each: each.label if isinstance(each, Architecture) else str(each),
)
def test_a_smaller_fleet_has_whole_workers_of_each_kind(architecture: Architecture, share: float, gpus: int) -> None:
    """A model that takes four GPUs a replica was told to do with one."""
    assert gpus_for(architecture, share) == gpus


def test_a_tie_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--workload", "64/16", "--qps", "1", "--gpus", "2", "--tp", "1", "--slo", "ttft:5000", "--jobs", "1")
    document = json.loads(run(tmp_path, *flags).read_text())
    assert document["ties"] and document["decided_by"] != "goodput"
    assert "Tie at 1/s:" in capsys.readouterr().out


def test_limits_that_nothing_keeps_are_told_with_what_comes_closest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(run(tmp_path, *SMALL, "--tp", "1", "--slo", "ttft:20").read_text())
    shown = capsys.readouterr().out
    assert not document["met"]
    assert "Nothing on 2 GPUs keeps ttft:20 for 90% of answers at 2/s." in shown
    assert "instead of 20 for 95% of them" in shown


def test_only_the_modes_that_were_asked_for(tmp_path: Path) -> None:
    flags = ("--turns", "2", "--modes", "ppd,pd", "--tp", "1")
    document = json.loads(run(tmp_path, *SMALL[2:], "--workload", "600/4", *flags).read_text())
    assert {each["mode"] for each in document["standings"]} == {"ppd", "pd"}
    assert load_topology(next(tmp_path.glob("*.yaml"))).mode in (Mode.PD, Mode.PPD)


def test_a_measured_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any results will do: here those of a simulated L4, whose steps the fit has to find again."""
    command = ["simulate", "2A", "--gpu", "l4", "--qps", "0.5,1", "--requests", "20", "-o", str(tmp_path)]
    with pytest.raises(SystemExit):
        build_app(command)(command)
    measured = next(tmp_path.glob("tercet-simulate-*Z.json"))
    document = json.loads(run(tmp_path, "--from", str(measured), *SMALL[:2], "--qps", "0.5", "--jobs", "1").read_text())
    assert document["gpus"] == 2, "as many as were measured"
    assert document["oracles"]["1"].startswith("measured")
    assert "2A aggregated" in {each["architecture"] for each in document["standings"]}


def test_a_recorded_traffic_at_its_own_rate(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"timestamp": 400 * i, "input_length": 900 + i, "output_length": 30, "hash_ids": [i]} for i in range(60)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    document = json.loads(run(tmp_path, "--trace", str(trace), "--gpus", "2", "--tp", "1", "--jobs", "1").read_text())
    assert document["load"] == pytest.approx(60 / 23.6, rel=1e-3)


def test_engines_are_planned_with_room_for_long_texts(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"prompt": f"{i} {'word ' * 4000}", "max_tokens": 16}) for i in range(20)))
    flags = ("--trace", str(texts), "--qps", "1", "--gpus", "1", "--tp", "1", "--slo", "ttft:5000", "--jobs", "1")
    document = json.loads(run(tmp_path, *flags).read_text())
    assert document["standings"][0]["runs"][0]["goodput"] > 0.5, "at four characters a token a prompt has 5,000 tokens"
    texts.write_text(json.dumps({"prompt": "word " * 1_000_000, "max_tokens": 16}))
    with pytest.raises(UsageError, match=r"grow to 1250016 tokens, and a rank has room for \d+: leave the longest"):
        run(tmp_path, *flags)


def test_of_a_trace_whose_conversations_no_gpu_holds_those_are_to_be_left_out(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(json.dumps({"timestamp": 0, "input_length": 9_000_000, "output_length": 10}))
    with pytest.raises(UsageError, match=r"has room for \d+: leave the longest conversations out of the"):
        run(tmp_path, "--trace", str(trace))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model", "gpt-9"), "no latencies are known of the model"),
        (("--gpu", "z9"), "unknown GPU"),
        (("--gpus", "0"), "--gpus 0 is out of range"),
        (("--gpus", "3", "--tp", "2"), "no architecture uses all of 3 GPUs"),
        (("--gpus", "1", "--gpu", "a100", "--model", "llama-3.1-70b"), "does not fit 1 x a100"),
        (("--tp", "two"), "write numbers of GPUs"),
        (("--modes", "sideways"), "unknown mode"),
        (("--modes", "epd"), "no architecture uses all of 8 GPUs in mode epd"),
        (("--qps", "0"), "--qps 0 is out of range"),
        (("--link", "-1"), "--link -1 is out of range"),
        (("--memory-share", "0"), "--memory-share 0 is out of range"),
        (("--qps", "1", "--concurrency", "2"), "two kinds of load"),
        (("--workload", "images"), "takes no pictures"),
        (("--workload", "9000000/10"), "a rank has room for"),
        (("--slo", "ttft"), "write ttft, tpot or e2e"),
        (("--from", "x.json", "--gpu", "h100"), "leave out --gpu"),
    ],
)
def test_wrong_use_is_told(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    command = ["plan", *flags, "-o", str(tmp_path)]
    with pytest.raises(UsageError, match=said):
        build_app(command)(command)
