"""Steps of the engine on one core, next to the model's bare prepacked linear layers in the same run.

    python -m benchmarks.engine.steps [--model NAME|DIR] [--dtype bf16|fp32] [--core N] [--rounds N]

The yardstick is every linear layer of the model and its head, in oneDNN's prepacked layout and in the type that
the backend computes in, nothing between them. Round by round: yardstick and decode step at 16 rows, yardstick and
prefill at 512 rows (the head for one). Ratios are medians of processor time, paired by round. Start and memory
are those of a fresh process that imports, loads and gives one token, the better of two. Ends with 1 when a target is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.engine.lab import Timer, Verdict, build, decode_batch, model_folder, pin, prefill_batch
from tercet.engine.backend import CpuBackend
from tercet.engine.linear import PackedLinear

STARTS = 2  # the first may find the weights not in the page cache
DECODE_ROWS, CONTEXT, PREFILL_ROWS = 16, 256, 512
DECODE_LIMIT, PREFILL_LIMIT, READY_LIMIT_S, RESIDENT_LIMIT_GB = 1.6, 0.75, 12.0, 1.2


class BareLinears:
    """The linears of a Llama-like model with random weights, prepacked."""

    def __init__(self, config: dict[str, int], dtype: torch.dtype) -> None:
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        heads = config["num_attention_heads"]
        dim = config.get("head_dim") or hidden // heads
        qkv = (heads + 2 * config["num_key_value_heads"]) * dim
        self._layers = [
            [
                PackedLinear(torch.randn(outputs, inputs).to(dtype), None)
                for outputs, inputs in ((qkv, hidden), (hidden, heads * dim), (inner, hidden), (inner, hidden))
            ]
            + [PackedLinear(torch.randn(hidden, inner).to(dtype), None)]
            for _ in range(config["num_hidden_layers"])
        ]
        self._head = PackedLinear(torch.randn(config["vocab_size"], hidden).to(dtype), None)
        self._inputs = {
            rows: [torch.randn(rows, n).to(dtype) for n in (hidden, heads * dim, hidden, hidden, inner)]
            for rows in (DECODE_ROWS, PREFILL_ROWS)
        }

    def run(self, rows: int, head_rows: int) -> None:
        """Multiply once through all layers, then the head."""
        with torch.inference_mode():
            for layer in self._layers:
                for linear, x in zip(layer, self._inputs[rows], strict=True):
                    linear(x)
            self._head(self._inputs[rows][0][:head_rows])


def first_token(folder: Path, dtype: str) -> dict[str, float]:
    """In a fresh process: import, load, one token. Returns seconds and resident gigabytes."""
    executor = build(folder, dtype)
    executor.execute(prefill_batch(16, executor.vocab_size))
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return {"cpu_s": time.process_time(), "resident_gb": resident * 1024 / 1e9}


def start_once(folder: Path, dtype: str) -> dict[str, float]:
    """Run first_token in a child on this process's core; adds the wall time from the child's start."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.engine.steps", "--first-token", str(folder), "--dtype", dtype]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    report: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return report | {"wall_s": time.perf_counter() - begin}


def measure(folder: Path, dtype: str, rounds: int) -> list[Verdict]:
    """Measure everything; print times, return verdicts."""
    start = min((start_once(folder, dtype) for _ in range(STARTS)), key=lambda report: report["wall_s"])
    executor = build(folder, dtype)
    bare = BareLinears(json.loads((folder / "config.json").read_text()), CpuBackend(dtype, threads=1).compute_dtype)
    decode = decode_batch(DECODE_ROWS, CONTEXT, executor.vocab_size)
    prefill = prefill_batch(PREFILL_ROWS, executor.vocab_size)
    timer = Timer()
    for warm in (decode, prefill):
        executor.execute(warm)
    for number in range(rounds):
        timer.run("bare 16", lambda: bare.run(DECODE_ROWS, DECODE_ROWS))
        timer.run("decode", lambda: executor.execute(decode))
        if number % 3 == 0:
            timer.run("bare 512", lambda: bare.run(PREFILL_ROWS, 1))
            timer.run("prefill", lambda: executor.execute(prefill))
    print(f"{'':24} {'processor ms':>14} {'wall ms':>10}   (medians of {rounds} rounds, prefill of {-(-rounds // 3)})")
    for name in timer.cpu:
        wall = sorted(timer.wall[name])[len(timer.wall[name]) // 2]
        print(f"{name:<24} {timer.median(name) * 1e3:14.1f} {wall * 1e3:10.1f}")
    print(f"{'start to first token':<24} {start['cpu_s'] * 1e3:14.0f} {start['wall_s'] * 1e3:10.0f}\n")
    return [
        Verdict(
            "(a) decode, 16 at 256, over bare prepacked linears", timer.ratio("decode", "bare 16"), DECODE_LIMIT, ""
        ),
        Verdict(
            "(b) prefill of 512, rate over bare linears'", timer.ratio("bare 512", "prefill"), PREFILL_LIMIT, "", False
        ),
        Verdict("(c) import, load and first token", start["wall_s"], READY_LIMIT_S, "s"),
        Verdict("(c) resident memory after it", start["resident_gb"], RESIDENT_LIMIT_GB, "GB"),
    ]


def main() -> int:
    """Parse flags, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a model's name or folder")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--core", type=int, help="the core to use (default: the last)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--first-token", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.first_token:
        print(json.dumps(first_token(options.first_token, options.dtype)))
        return 0
    core = pin(options.core)
    folder = model_folder(options.model)
    print(f"{options.model}, {options.dtype}, one thread on core {core}\n")
    verdicts = measure(folder, options.dtype, options.rounds)
    for verdict in verdicts:
        print(verdict.line())
    return 0 if all(v.passed for v in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
