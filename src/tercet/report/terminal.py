"""A whole results document on the terminal."""

from __future__ import annotations

from rich.console import Console

from tercet.report.conclusion import conclusions
from tercet.report.tables import latency_table, throughput_table, verdict_table
from tercet.results.document import Results

PLAIN_WIDTH = 140
"""Columns assumed when the output is no terminal: a file or a pipe has no edge to wrap at."""


def console_for_output(*, stderr: bool = False) -> Console:
    """Return a console: the terminal's own width, or a wide plain one when there is no terminal."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def print_results(results: Results, console: Console) -> None:
    """Print tables per rate, then the verdict and the conclusions in words."""
    for qps in sorted({summary.qps for summary in results.summaries}):
        summaries = [summary for summary in results.summaries if summary.qps == qps]
        verdicts = [verdict for verdict in results.verdicts if verdict.qps == qps]
        console.print(latency_table(qps, summaries))
        console.print(throughput_table(qps, summaries))
        if verdicts:
            console.print(verdict_table(qps, verdicts))
    for line in conclusions(results):
        console.print(line, markup=False, style="bold red" if line.startswith(("WRONG", "WARNING")) else "")
