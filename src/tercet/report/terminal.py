"""A whole results document on the terminal."""

from __future__ import annotations

from rich.console import Console

from tercet.report.conclusion import FEW_PLACES, conclusions
from tercet.report.documents import print_documents
from tercet.report.gather import gather
from tercet.report.headline import headline
from tercet.report.place import Place
from tercet.report.tables import latency_table, throughput_table, verdict_table
from tercet.results.document import Results

PLAIN_WIDTH = 140
"""Columns assumed when the output is no terminal: a file or a pipe has no edge to wrap at."""


def console_for_output(*, stderr: bool = False) -> Console:
    """Return a console: the terminal's own width, or a wide plain one when there is no terminal."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def print_results(results: Results, console: Console) -> None:
    """Print tables, then the verdict and the conclusions in words.

    A few loads have tables of their own, down to the turn; of more, one table a metric shows all of them.
    """
    places = list(dict.fromkeys(Place.of(summary) for summary in results.summaries))
    if len(places) <= FEW_PLACES:
        for place in places:
            _print_place(results, place, place.title(len(results.traffics) > 1), console)
    if results.runs:
        evidence = gather(results)
        print_documents(results, evidence, console)
        if results.verdicts:
            console.print(headline(results, evidence), markup=False, style="bold")
    print_conclusions(results, console)


def print_conclusions(results: Results, console: Console) -> None:
    """Print what follows from the figures, in words."""
    for line in conclusions(results):
        console.print(line, markup=False, style="bold red" if line.startswith(("WRONG", "WARNING")) else "")


def _print_place(results: Results, place: Place, title: str, console: Console) -> None:
    summaries = [summary for summary in results.summaries if Place.of(summary) == place]
    verdicts = [verdict for verdict in results.verdicts if Place.of(verdict) == place]
    console.print(latency_table(title, summaries))
    console.print(throughput_table(title, summaries))
    if verdicts:
        console.print(verdict_table(title, verdicts))
