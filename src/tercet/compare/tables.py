"""What only a comparison has to tell, for the terminal: busy stages, interference."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tercet.report.figures import load_text, milliseconds
from tercet.report.terminal import print_results
from tercet.results.curve import Interference
from tercet.results.document import Results
from tercet.results.record import RunRecord

BUSIER = 0.005
"""A stage below half a percent is not shown: a warm-up's rest."""


def print_comparison(results: Results, console: Console) -> None:
    """Print the tables of every load, then those that only a comparison has figures for."""
    print_results(results, console)
    for table in (busy_table(results.runs), interference_table(results.interference)):
        if table.row_count:
            console.print(table)


def busy_table(runs: Sequence[RunRecord]) -> Table:
    """Return how busy each stage was, mean over the blocks, a row per architecture and workload and column per load."""
    cells = _busy(runs)
    loads = sorted({(kind, load) for _, _, kind, load, _ in cells})
    table = _table("Busy share of each stage", "workload", "architecture", "worker stage")
    for kind, load in loads:
        table.add_column(load_text(kind, load), justify="right", no_wrap=True)
    rows = dict.fromkeys((workload, label, part) for label, workload, _, _, part in cells)
    for workload, label, part in sorted(rows):
        shares = [cells.get((label, workload, kind, load, part)) for kind, load in loads]
        if max(share or 0.0 for share in shares) >= BUSIER:
            table.add_row(workload, label, part, *("-" if share is None else f"{share * 100:.0f}%" for share in shares))
    return table


def interference_table(found: Sequence[Interference]) -> Table:
    """Return what a long prompt does to the answers that are being written."""
    what = f"{found[0].streams} answers, a prompt of {found[0].prompt_tokens} tokens" if found else ""
    table = _table(f"Prefill against decode: {what}; ITL in ms", "architecture")
    for name in ("before: mean / max", "during prefill: mean / max", "mean grows", "the prompt's TTFT"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        table.add_row(
            each.architecture,
            f"{milliseconds(each.quiet_itl_ms_mean)} / {milliseconds(each.quiet_itl_ms_max)}",
            f"{milliseconds(each.during_itl_ms_mean)} / {milliseconds(each.during_itl_ms_max)}",
            f"{each.during_itl_ms_mean / each.quiet_itl_ms_mean:.1f} times",
            milliseconds(each.prompt_ttft_ms),
        )
    return table


BusyKey = tuple[str, str, str, float, str]


def _busy(runs: Sequence[RunRecord]) -> dict[BusyKey, float]:
    """Return (architecture, workload, kind, load, "worker stage") -> mean busy share."""
    shares: dict[BusyKey, list[float]] = {}
    for run in runs:
        for stage in run.stages:
            part = f"{stage.worker} {stage.stage}"
            shares.setdefault((run.architecture, run.workload, run.load_kind, run.load, part), []).append(
                stage.busy_fraction
            )
    return {key: sum(found) / len(found) for key, found in shares.items()}


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table
