"""Can verdicts be trusted? The same virtual GPU against itself, and against one that is 10% slower, ten times each.

    python -m benchmarks.compare.verdicts            # about ten minutes; --kind aa or power: one of the two

Every comparison is a `tercet compare` of its own, with processes, prompts and arrivals of its own. Passes when the same
against itself names a winner at most once, and the slower one is named the loser eight times or more, of ten.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tercet.results.document import Results
from tercet.results.file import read
from tercet.results.verdict import Margin

FAST, OTHER = "a", "b"
SLOWDOWN = {"aa": 1.0, "power": 1.1}
BASE = 4.0
"""Both are so much slower than an H100: what the host adds to a step then counts for less."""
FLAGS = (
    *("--workload", "2048/8", "--scale", "1", "--turns", "1", "--concurrency", "4", "--num-requests", "12"),
    *("--keep", "warm", "--no-probe"),
)


@dataclass(frozen=True)
class Outcome:
    """One comparison: who was named the winner of which primary metric, and how far the other was behind."""

    winners: dict[str, str]
    margins: dict[str, tuple[float, Margin]]

    @property
    def line(self) -> str:
        """Write it: the ratio of b to a and its interval, per metric."""
        parts = []
        for metric, (sign, margin) in self.margins.items():
            named = f"{self.winners[metric]} wins" if metric in self.winners else margin.outcome
            parts.append(f"{metric} {sign * margin.relative * 100:+.1f}% ({named}, p {margin.p:.4f})")
        return "; ".join(parts)


def topology(folder: Path, name: str, slowdown: float) -> Path:
    """Write a topology; the lease tells the two apart, so that each has processes of its own."""
    path = folder / f"{name}.yaml"
    lease = 30 if name == FAST else 31
    path.write_text(
        f"{{workers: 1A, mode: aggregated, engine: {{engine: virtual, gpu: h100, gpu_slowdown: {slowdown},"
        f" lease: {lease}}}}}\n"
    )
    return path


def compare(folder: Path, kind: str, seed: int, more: Sequence[str]) -> Results:
    """Run one comparison and return its results."""
    archs = [
        f"--arch={name}={topology(folder, name, slowdown)}"
        for name, slowdown in ((FAST, BASE), (OTHER, BASE * SLOWDOWN[kind]))
    ]
    output = folder / f"{kind}-{seed}"
    command = [sys.executable, "-m", "tercet", "compare", *archs, *FLAGS, "--seed", str(seed), "--output", str(output)]
    command += more
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600)
    (path,) = output.glob("*.json")
    return read(path)


def outcome(results: Results) -> Outcome:
    """Return what a comparison concluded on its primary metrics."""
    verdicts = [verdict for verdict in results.verdicts if verdict.primary]
    return Outcome(
        {verdict.metric: verdict.winner for verdict in verdicts if verdict.winner is not None},
        {
            verdict.metric: (1.0 if margin.architecture == OTHER else -1.0, margin)
            for verdict in verdicts
            for margin in verdict.margins
        },
    )


def run(kind: str, seeds: range, more: Sequence[str]) -> bool:
    """Run so many comparisons of a kind; print each, and say whether the promise holds."""
    named: list[set[str]] = []
    comparisons = len(seeds)
    with TemporaryDirectory() as folder:
        for seed in seeds:
            found = outcome(compare(Path(folder), kind, seed, more))
            named.append(set(found.winners.values()))
            print(f"{kind} {seed + 1}: {found.line}", flush=True)
    if kind == "aa":
        count = sum(bool(winners) for winners in named)
        print(f"the same against itself: a winner was named {count} of {comparisons} times")
        return count <= comparisons // 10
    count = sum(winners == {FAST} for winners in named)
    print(f"10% slower: named the loser {count} of {comparisons} times")
    return count >= comparisons * 8 // 10


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[*SLOWDOWN, "both"], default="both")
    parser.add_argument("--comparisons", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--device", default="cpu:0")
    options = parser.parse_args(arguments)
    seeds = range(options.first_seed, options.first_seed + options.comparisons)
    more = ("--blocks", str(options.blocks), "--devices", options.device)
    kinds = list(SLOWDOWN) if options.kind == "both" else [options.kind]
    return 0 if all([run(kind, seeds, more) for kind in kinds]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
