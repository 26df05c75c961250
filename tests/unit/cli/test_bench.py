"""`tercet bench`: flags, refusals, and a whole run in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from typer.testing import CliRunner

import tercet.bench.benchmark as module
from tercet.bench.plan import Plan
from tercet.cli.main import build_app
from tercet.core.errors import UsageError
from tercet.results.file import read
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.prompts import PromptForm

URL = "http://127.0.0.1:9"


class Stop(Exception):
    """Ends a command where a benchmark would begin."""


def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> Plan:
    """Return the plan that a command line comes to."""
    seen: list[Plan] = []

    def keep(plan: Plan, *rest: object) -> None:
        seen.append(plan)
        raise Stop

    monkeypatch.setattr(module, "Benchmark", keep)
    line = ["bench", f"{URL}/v1/", "--output", str(tmp_path), *arguments]
    with pytest.raises(Stop):
        CliRunner().invoke(build_app(line), line, catch_exceptions=False)
    return seen[0]


def refused(*arguments: str) -> str:
    line = ["bench", URL, *arguments]
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(build_app(line), line, catch_exceptions=False)
    return str(caught.value)


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = asked(monkeypatch, tmp_path)
    assert (plan.url, plan.load_kind, plan.loads, plan.runs, plan.form) == (URL, "qps", (1.0,), 1, None)
    assert (plan.traffic.name, plan.traffic.num_requests, plan.traffic.arrivals) == ("W1", 64, Arrivals.POISSON)
    assert plan.salt != asked(monkeypatch, tmp_path).salt


def test_open_loops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = "--qps 1,2.5 --arrivals gamma --burstiness 0.5 --ramp 3 --duration 20 --turns 3 --think 0.5 --scale 0.5"
    plan = asked(monkeypatch, tmp_path, *line.split(), "--input-tokens", "100-200")
    traffic = plan.traffic
    assert plan.loads == (1.0, 2.5) and (traffic.arrivals, traffic.burstiness, traffic.ramp_s) == ("gamma", 0.5, 3.0)
    assert (traffic.num_requests, traffic.duration_s, traffic.turns, traffic.think_s) == (0, 20.0, 3, 0.5)
    assert str(traffic.workload.inputs) == "50-100"


def test_closed_loops_and_the_images_workload(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = asked(monkeypatch, tmp_path, "--workload", "images")
    assert (plan.load_kind, plan.loads, plan.traffic.num_requests) == ("concurrency", (1, 8, 16, 32, 64), 200)
    assert plan.traffic.workload.output_tokens == 500
    line = "--workload images --images 1-8 --image-size 64x32 --image-pool 3 --concurrency 2 --num-requests 5"
    plan = asked(monkeypatch, tmp_path, *line.split())
    pictures = plan.traffic.workload.pictures
    assert pictures is not None and (pictures.low, pictures.high, pictures.width, pictures.pool) == (1, 8, 64, 3)
    assert plan.loads == (2.0,) and plan.traffic.concurrency == 2 and plan.traffic.num_requests == 5


def test_a_trace_brings_its_rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        "".join(json.dumps({"timestamp": t, "input_length": 9, "output_length": 3}) + "\n" for t in (0, 1000, 4000))
    )
    plan = asked(monkeypatch, tmp_path, "--dataset", str(path), "--trace-speed", "2")
    assert plan.traffic.arrivals is Arrivals.TRACE and plan.loads == (1.5,) and plan.traffic.num_requests == 3
    plan = asked(monkeypatch, tmp_path, "--dataset", str(path), "--qps", "4", "--num-requests", "2")
    assert plan.traffic.arrivals is Arrivals.POISSON and plan.loads == (4.0,)
    assert "--trace-speed" in refused("--dataset", str(path), "--qps", "4", "--arrivals", "trace")
    plan = asked(monkeypatch, tmp_path, "--dataset", str(path), "--arrivals", "trace", "--trace-speed", "2")
    assert plan.traffic.arrivals is Arrivals.TRACE and plan.loads == (1.5,)


@pytest.mark.parametrize("pattern", ["poisson", "constant", "gamma"])
def test_arrivals_that_are_named_win_over_a_traces_own_times(
    pattern: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"timestamp": t, "input_length": 9}) + "\n" for t in (0, 1000, 4000)))
    plan = asked(monkeypatch, tmp_path, "--dataset", str(path), "--arrivals", pattern)
    assert plan.traffic.arrivals == pattern and plan.loads == (1.0,)
    told = refused("--dataset", str(path), "--arrivals", pattern, "--trace-speed", "2")
    assert "--trace-speed 2 is of a trace that is replayed" in told


def test_turns_that_no_conversation_of_a_data_set_has_take_no_requests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "Say it."}\n')
    line = ("--dataset", str(path), "--qps", "4", "--num-requests", "9", "--turns", "3")
    assert asked(monkeypatch, tmp_path, *line).traffic.num_conversations == 9


def test_requests_are_written_as_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = ["--prompt-format", "chat", "--no-ignore-eos", "--api-key", "k", "--header", "X-A: b", "--workers", "3"]
    plan = asked(monkeypatch, tmp_path, *line, "--extra-body", '{"top_p": 0.5}', "--slo", "ttft:5", "--slo", "tpot:6")
    assert plan.form is PromptForm.CHAT and not plan.exact and plan.extra == {"top_p": 0.5} and plan.workers == 3
    assert [(header.name, header.value) for header in plan.headers] == [("Authorization", "Bearer k"), ("X-A", "b")]
    assert str(plan.slo) == "ttft:5 tpot:6"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--qps 1 --concurrency 2", "give one of them"),
        ("--qps fast", "--qps 'fast'"),
        ("--concurrency 1.5", "whole numbers"),
        ("--concurrency 2 --arrivals constant", "--arrivals has no meaning"),
        ("--arrivals trace", "--arrivals trace needs a --dataset"),
        ("--arrivals odd", "poisson, constant, gamma, trace"),
        ("--concurrency 1,inf", "whole numbers"),
        ("--concurrency nan", "whole numbers"),
        ("--qps 1,0", "--qps 0"),
        ("--think nan", "--think nan"),
        ("--prefix-groups 0", "--prefix-groups 0"),
        ("--num-requests 0", "--num-requests 0"),
        ("--duration 0", "--duration 0"),
        ("--input-tokens 9-3", "--input-tokens"),
        ("--prefix-tokens 600", "--prefix-tokens 600"),
        ("--images 3-1", "--images"),
        ("--image-size 3", "--image-size"),
        ("--image-pool 3", "need --images"),
        ("--prompt-format xml", "--prompt-format"),
        ("--extra-body [1]", "--extra-body"),
        ("--header x", "--header"),
        ("--slo ttft", "--slo"),
        ("--percentiles 101", "--percentiles"),
        ("--export csv", "vllm, aiperf"),
        ("--workload W9", "W1 (512/256)"),
        ("--dataset /none/at/all", "can't read the data set"),
        ("--dataset DATA --scale 0.5 --images 2", "--scale, --images: DATA says what is sent"),
        ("--dataset DATA --workload W2", "--workload: DATA says what is sent"),
        ("--dataset DATA --output-tokens 5", "--output-tokens: DATA says what is sent"),
        ("--dataset DATA --qps 2 --trace-speed 2", "--trace-speed 2 is of a trace"),
        ("--qps 2 --burstiness 0.5", "--burstiness 0.5 shapes gamma arrivals alone"),
        ("--workers 0", "--workers"),
        ("--tokenizer /none/at/all", "tokenizer.json"),
    ],
)
def test_wrong_input_is_refused_by_its_flag(line: str, words: str, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "timestamp": 1}')
    told = refused("--output", str(tmp_path), *line.replace("DATA", str(data)).split())
    assert words.replace("DATA", str(data)) in told


@pytest.fixture
def truth_url() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.bench.truth_server", "--ttft-ms", "20", "--tpot-ms", "1"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None and server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.stdin.close()
        server.wait(20)
        server.stdout.close()


def started(url: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tercet", "bench", url, "--output", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_leaves_its_block_its_file_and_its_lines(truth_url: str, tmp_path: Path) -> None:
    line = "--workload 16/8 --qps 50 --num-requests 12 --export vllm --api-key hidden --show-responses 3"
    process = started(truth_url, tmp_path, *line.split())
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Serving Benchmark Result" in out and "Successful requests:                     12" in out
    assert (out + err).count("  turn 1 of ") == 3
    (path,) = tmp_path.glob("tercet-bench-*Z.json")
    results = read(path)
    assert len(results.runs[0].finished) == 12 and results.runs[0].invalid == ("INVALID" in out)
    assert "***" in results.command and "hidden" not in path.read_text()
    (lines,) = tmp_path.glob("*-requests.jsonl")
    assert len(lines.read_text().splitlines()) == 12
    (exported,) = tmp_path.glob("*-vllm-qps50-r0.json")
    assert json.loads(exported.read_text())["completed"] == 12 and str(exported) in out


def test_ctrl_c_keeps_what_was_measured_and_says_so(truth_url: str, tmp_path: Path) -> None:
    flags = ["--workload", "16/8", "--concurrency", "2", "--duration", "600", "--warmup", "2"]
    process = started(truth_url, tmp_path, *flags)
    assert process.stderr is not None
    while "warming up" not in (line := process.stderr.readline()):
        assert line, process.communicate()
    before = _answered(truth_url)  # the warm-up's line comes when it is over
    until = monotonic() + 60
    while _answered(truth_url) < before + 3:
        assert monotonic() < until and process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Interrupted" in err and "INTERRUPTED" in out and "Serving Benchmark Result" in out
    (path,) = tmp_path.glob("tercet-bench-*Z.json")
    results = read(path)
    assert results.interrupted and not results.runs[0].complete and results.runs[0].finished


def _answered(url: str) -> int:
    """Return how many requests the server has answered."""
    with urllib.request.urlopen(f"{url}/count", timeout=20) as answer:
        return int(json.loads(answer.read()))
