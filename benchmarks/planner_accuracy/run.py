"""How near the planner's predictions come to what others measured on hardware that is not here.

    python -m benchmarks.planner_accuracy.run
    python -m benchmarks.planner_accuracy.run --data DIR --details

DIR holds CSV files like those of `data/` (the same columns; a column `config` may say `1P3D`, `2P2D`, `4R`,
`1R_1P_1D_1pD`) and JSON results of the 4-GPU client. Constants are fitted to the rows of `--fit`, by default `data/`,
and never to what is judged in DIR.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.planner_accuracy.compared import TARGETS, WINNERS, Judgement, print_judgement
from benchmarks.planner_accuracy.conversations import fitted, h100, predict, predict_four_gpu, read_four_gpu
from benchmarks.planner_accuracy.documents import dp8, llava, sglang

from tercet.bench.observed_csv import MeasuredRow, read_decode_rows, read_rows
from tercet.latency.oracle import ChosenOracle
from tercet.latency.stack import StackConstants

DATA = Path(__file__).parent / "data"
DECODE_CONTEXT = 2460
"""Tokens of context in the decode-only file."""


def conversation_rows(folder: Path) -> list[MeasuredRow]:
    """Return the rows of all tables of conversations in a folder."""
    return [row for path in sorted(folder.glob("*.csv")) if not _decode_only(path) for row in read_rows(path)]


def judge_conversations(rows: list[MeasuredRow], chosen: ChosenOracle, stack: StackConstants, title: str) -> Judgement:
    """Predict every row."""
    names = ("per_request", "idle", "hop", "hop_busy", "hop_stall")
    said = ", ".join(f"{name} {getattr(stack, f'{name}_ms'):.1f} ms" for name in names)
    said = f"scale {stack.scale:.3f}, {said}; fitted to {stack.source}"
    return Judgement(title, [predict(row, chosen, stack) for row in rows], (said,))


def judge_decode(folder: Path, chosen: ChosenOracle, stack: StackConstants) -> list[tuple[int, float, float]]:
    """Return (batch, measured, predicted) milliseconds of a decode step."""
    oracle = chosen.oracle.slowed(stack.scale)
    rows = [row for path in sorted(folder.glob("*.csv")) if _decode_only(path) for row in read_decode_rows(path)]
    return [(batch, tpot, oracle.decode(batch, DECODE_CONTEXT)) for batch, tpot in rows]


def judge_four_gpu(folder: Path, chosen: ChosenOracle, stack: StackConstants) -> Judgement | None:
    """Predict the 4-GPU client's results, if there are any."""
    rows = read_four_gpu(folder) if any(folder.rglob("*.json")) else []
    if not rows:
        return None
    return Judgement("4 GPUs", [predict_four_gpu(row, chosen, stack) for row in rows])


def _decode_only(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        return file.readline().startswith("batch_size")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of what is predicted")
    parser.add_argument("--fit", type=Path, default=DATA, help="folder of what the constants are fitted to")
    parser.add_argument("--lowest", action="store_true", help="fit to the lowest load of each workload and mode alone")
    parser.add_argument("--details", action="store_true", help="print every point, not the worst alone")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    chosen = h100()
    stack = fitted(conversation_rows(arguments.fit), chosen, lowest=arguments.lowest)
    judged = judge_conversations(conversation_rows(arguments.data), chosen, stack, "Two turns on H100s (vLLM)")
    judgements = [judged]
    if (four := judge_four_gpu(arguments.data, chosen, stack)) is not None:
        judgements.append(four)
    judgements += [dp8(), llava(), sglang()]
    for judgement in judgements:
        print_judgement(judgement, details=arguments.details)
    print_decode(judge_decode(arguments.data, chosen, stack))
    print(f"\n{time.perf_counter() - begin:.0f} s")
    missed = [metric for metric, target in TARGETS.items() if judged.points and judged.median(metric) > target]
    return 1 if missed or judged.right_share() < WINNERS else 0


def print_decode(rows: list[tuple[int, float, float]]) -> None:
    """Print how a decode step's time follows the batch."""
    if not rows:
        return
    errors = sorted(abs(predicted / measured - 1) for _, measured, predicted in rows)
    print(f"\nDecode alone, by batch: {len(rows)} rows, median error {errors[len(errors) // 2]:.1%}")
    for low, high in ((1, 90), (91, 160), (161, 1 << 20)):
        part = [predicted / measured - 1 for batch, measured, predicted in rows if low <= batch <= high]
        if part:
            print(f"  batch {low} to {min(high, rows[-1][0])}: bias {sum(part) / len(part):+.1%}")


if __name__ == "__main__":
    raise SystemExit(main())
