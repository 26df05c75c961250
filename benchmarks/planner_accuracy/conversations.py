"""The two-turn conversations on H100s: rows of shared tables, and the other client's results of 4 GPUs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.planner_accuracy.client import (
    Figures,
    conversation,
    figures,
    open_loop,
    poisson,
    spread,
    stopped_lengths,
)
from benchmarks.planner_accuracy.compared import Point
from benchmarks.planner_accuracy.pinned import Pinned, pinned_fleet

from tercet.bench.observed_csv import CACHED_TOKENS, MeasuredRow, lowest_loads, samples_of
from tercet.core.errors import UsageError
from tercet.latency.calibration import fit_stack, stack_from
from tercet.latency.oracle import ChosenOracle
from tercet.latency.registry import oracle_for
from tercet.latency.stack import StackConstants
from tercet.results.record import RequestRecord
from tercet.sim.simulate import simulate

MOST = {"W1": 256, "W2": 128, "W3": 1024, "W4": 64}
"""Output tokens asked for; answers stop earlier where the model says so."""
CONFIGS = {"pd": "1P1D", "ppd": "1P1pD", "replication": "2R"}
RUN_S = 60.0
CONNECTIONS = 100
SEEDS = 5
LATE_SEEDS = 3


def h100() -> ChosenOracle:
    """Return the device that was measured."""
    return oracle_for("llama-3.1-8b", "h100", memory_share=0.85)


def fitted(rows: Sequence[MeasuredRow], chosen: ChosenOracle, *, lowest: bool = False) -> StackConstants:
    """Return the six constants of the stack, fitted to the rows, or to those of the lowest loads alone."""
    used = lowest_loads(rows) if lowest else rows
    stack = stack_from(fit_stack(chosen.oracle, samples_of(used)), StackConstants(), f"{len(used)} rows")
    return stack.but(connections=CONNECTIONS)


def predict(row: MeasuredRow, chosen: ChosenOracle, stack: StackConstants, seeds: int = SEEDS) -> Point:
    """Return a row's point: as many second turns as were sent, within a minute, through 100 connections."""
    runs = [_run(row, chosen, stack, seed) for seed in range(seeds)]
    predicted = _mean(runs)
    measured = {"ttft": row.ttft_ms, "tpot": row.tpot_ms, "e2e": row.e2e_ms, "throughput": row.real_qps}
    return Point(f"{row.workload} at {row.qps:g}/s", row.config or row.mode, measured, predicted)


def _run(row: MeasuredRow, chosen: ChosenOracle, stack: StackConstants, seed: int) -> Figures:
    config = row.config or CONFIGS[row.mode]
    count = max(round(row.samples) if row.samples else int(row.qps * RUN_S), 1)
    lengths = stopped_lengths(row.output_tokens, MOST.get(row.workload, 1 << 20), count, seed)
    arrivals = spread(count, RUN_S, seed) if row.samples else poisson(row.qps, RUN_S, count, seed)
    new = row.prompt_tokens - CACHED_TOKENS
    talks = [
        conversation(i, [(new, output)], at) for i, (at, output) in enumerate(zip(arrivals, lengths, strict=False))
    ]
    found = simulate(
        pinned_fleet(config, chosen, stack), open_loop(), conversations=talks, decide=Pinned(config, seed, later=True)
    )
    return figures(found.requests, RUN_S)


def _mean(runs: Sequence[Figures]) -> dict[str, float]:
    total = sum(run.count for run in runs)
    return {
        "ttft": sum(run.ttft * run.count for run in runs) / total,
        "tpot": sum(run.tpot * run.count for run in runs) / total,
        "e2e": sum(run.e2e * run.count for run in runs) / total,
        "throughput": fmean(run.rate for run in runs),
    }


@dataclass(frozen=True, slots=True)
class FourGpuRow:
    """One result of the 4-GPU client: `turn1` and `turn2` are (prompt, output) tokens as it counts them."""

    config: str
    workload: str
    qps: float
    turn1: tuple[int, int]
    turn2: tuple[int, int]
    measured: dict[str, float]


FIRST_TURNS = {"small": (128, 128), "large": (1024, 1024)}
SECOND_TURNS = {
    "tiny": (16, 32), "short_gen": (32, 256), "long_gen": (32, 512), "very_long_gen": (64, 1024), "small_bal": (64, 64),
    "mid_bal": (128, 128), "mid_paste": (256, 64), "big_paste": (512, 64), "huge_paste": (1024, 32),
}  # fmt: skip
TOKENS_A_NOMINAL = 1.18
"""Real tokens of a prompt for each that the client counts: 0.75 words, of which 18% are random letters."""
FOUR_GPU_S = 10.0
FOUR_GPU_CONNECTIONS = 50


def read_four_gpu(path: Path) -> list[FourGpuRow]:
    """Read that client's results: a JSON file of one point, of a list of them, or a folder. Raises UsageError."""
    if path.is_dir():
        return [row for each in sorted(path.rglob("*.json")) for row in read_four_gpu(each)]
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return [_four_gpu_row(each) for each in (data if isinstance(data, list) else [data])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no result of the 4-GPU client: {type(error).__name__}: {error}") from error


def _four_gpu_row(data: dict[str, object]) -> FourGpuRow:
    workload = str(data["workload"])
    first, second = workload.split("_", 1)
    turn2 = data["turn2"]
    if not isinstance(turn2, dict):
        raise ValueError("turn2 is no object")
    measured = {name: float(turn2[f"avg_{name}_ms"]) for name in ("ttft", "tpot", "e2e")}
    rates = data.get("throughput")
    if isinstance(rates, dict) and rates.get("requests_per_sec"):
        measured["throughput"] = float(rates["requests_per_sec"])
    return FourGpuRow(
        str(data["config"]), workload, float(str(data["qps"])), FIRST_TURNS[first], SECOND_TURNS[second], measured
    )


def predict_four_gpu(row: FourGpuRow, chosen: ChosenOracle, stack: StackConstants, seeds: int = LATE_SEEDS) -> Point:
    """Return a row's point, of second turns: each follows its first at once; conversations come for ten seconds."""
    seconds: list[RequestRecord] = []
    rates = []
    turns = [(round(new * TOKENS_A_NOMINAL), output) for new, output in (row.turn1, row.turn2)]
    fleet = pinned_fleet(row.config, chosen, stack.but(connections=FOUR_GPU_CONNECTIONS))
    for seed in range(seeds):
        arrivals = poisson(row.qps, FOUR_GPU_S, max(int(row.qps * FOUR_GPU_S), 1), seed)
        talks = [conversation(i, turns, at) for i, at in enumerate(arrivals)]
        found = simulate(fleet, open_loop(), conversations=talks, decide=Pinned(row.config, seed))
        rates.append(len(found.requests) / max(record.done_s for record in found.requests))
        seconds += [record for record in found.requests if record.turn == 2]
    mean = figures(seconds, 1.0)
    predicted = {"ttft": mean.ttft, "tpot": mean.tpot, "e2e": mean.e2e, "throughput": fmean(rates)}
    return Point(f"{row.workload} at {row.qps:g}/s", row.config, row.measured, predicted)
