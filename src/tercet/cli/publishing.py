"""What `tercet bench` leaves behind: the printed block of each load, the results file, its lines and its exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tercet.cli.measuring import Outcome, finish
from tercet.report.serving import serving_block
from tercet.results.document import SIMULATED, Results
from tercet.results.export import export
from tercet.results.lines import write_lines
from tercet.results.record import RunRecord
from tercet.results.slo import Slo


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: where to write, what goodput counts, which percentiles to print, which exports to make."""

    folder: Path
    slo: Slo | None
    percentiles: tuple[float, ...]
    exports: tuple[str, ...] = ()


def finish_bench(outcome: Outcome, results: Results | None, wanted: Wanted) -> int:
    """Print and write what was measured, say how it ended, and return the exit code, as `finish` does."""
    return finish(
        outcome,
        results,
        wanted.folder,
        show=lambda results, console: print_blocks(results, console, wanted),
        also=lambda results, path: write_beside(results, path, wanted),
    )


def print_blocks(results: Results, console: Console, wanted: Wanted) -> None:
    """Print one block per load, the tables of turns and loads, and the notes."""
    from tercet.report.terminal import print_conclusions, print_results

    predicted = results.kind == SIMULATED
    loads: dict[tuple[str, float], list[RunRecord]] = {}
    for run in results.runs:
        loads.setdefault((run.load_kind, run.load), []).append(run)
    for runs in loads.values():
        for line in serving_block(runs, slo=wanted.slo, percentiles=wanted.percentiles, predicted=predicted):
            alarming = line.startswith(("INVALID", "INTERRUPTED"))
            console.print(line, markup=False, style="bold red" if alarming else "", soft_wrap=True)
        console.print()
    if len(loads) > 1 or any(len(summary.turns) > 1 for summary in results.summaries):
        print_results(results, console)
    else:
        print_conclusions(results, console)


def write_beside(results: Results, path: Path, wanted: Wanted) -> list[Path]:
    """Write every request as a line, and the exports, beside the results file; return the paths."""
    paths = [write_lines(results, path)]
    for format_ in wanted.exports:
        paths += export(results, path, format_, wanted.slo)
    return paths
