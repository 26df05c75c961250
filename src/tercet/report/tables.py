"""The tables of a results document, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from tercet.report.figures import milliseconds, percent, spread_text
from tercet.results.summary import Summary, TurnSummary
from tercet.results.verdict import DROPPED, Margin, Verdict

_HEAD = "mean / p50 / p99"


def latency_table(title: str, summaries: Sequence[Summary]) -> Table:
    """Return one load's latencies: a row per architecture and turn, and one for all turns."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{title}: latencies in ms", title_justify="left", pad_edge=False)
    table.add_column("architecture", no_wrap=True)
    table.add_column("turn", justify="right", no_wrap=True)
    for metric in ("TTFT", "TPOT", "E2E"):
        table.add_column(f"{metric}\n{_HEAD}", justify="right", no_wrap=True)
    for summary in summaries:
        rows: tuple[TurnSummary, ...] = summary.turns
        if len(rows) > 1:
            rows = (*rows, summary.overall)
        for i, row in enumerate(rows):
            table.add_row(
                _named(summary) if i == 0 else "",
                "all" if row.turn is None else str(row.turn),
                spread_text(row.ttft_ms),
                spread_text(row.tpot_ms),
                spread_text(row.e2e_ms),
                end_section=i == len(rows) - 1,
            )
    return table


def throughput_table(title: str, summaries: Sequence[Summary]) -> Table:
    """Return one load's throughput, success and where the prompts' KV came from; per device too when devices differ."""
    unequal = len({summary.devices for summary in summaries}) > 1
    table = Table(box=box.SIMPLE_HEAD, title=f"{title}: work done", title_justify="left", pad_edge=False)
    table.add_column("architecture", no_wrap=True)
    for name in ("devices", "requests/s", "output tok/s", *(("tok/s/device",) if unequal else ()), "success"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("prompt from own cache", justify="right", no_wrap=True)
    table.add_column("by transfer", justify="right", no_wrap=True)
    for summary in summaries:
        all_turns = summary.overall
        per_device = (f"{summary.output_tokens_per_s / summary.devices:.1f}",) if unequal else ()
        table.add_row(
            _named(summary),
            str(summary.devices),
            f"{summary.requests_per_s:.2f}",
            f"{summary.output_tokens_per_s:.1f}",
            *per_device,
            f"{percent(all_turns.success)} of {all_turns.requests}",
            _share(all_turns.cached_tokens, all_turns.prompt_tokens),
            _share(all_turns.external_tokens, all_turns.prompt_tokens),
        )
    return table


def _named(summary: Summary) -> str:
    """Name an architecture, and how many of its runs are no evidence: these are left out unless there are no others."""
    if not summary.invalid_runs:
        return summary.architecture
    all_of_them = summary.invalid_runs == summary.runs
    return f"{summary.architecture} ({'INVALID' if all_of_them else f'{summary.invalid_runs} runs invalid, left out'})"


def verdict_table(title: str, verdicts: Sequence[Verdict]) -> Table:
    """Return one load's verdicts: a row per metric, every architecture's mean, and who wins or why nobody does."""
    labels = list(dict.fromkeys(label for verdict in verdicts for label in verdict.values))
    table = Table(box=box.SIMPLE_HEAD, title=f"{title}: verdict", title_justify="left", pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for label in labels:
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for verdict in verdicts:
        values = [milliseconds(verdict.values[label]) if label in verdict.values else "-" for label in labels]
        name = f"{verdict.label}, {verdict.unit}" if verdict.unit else verdict.label
        table.add_row(name, *values, verdict_text(verdict), style="" if verdict.leaders else "dim")
    return table


def verdict_text(verdict: Verdict) -> str:
    """Say who wins and by how much, who ties, or why nothing can be said."""
    if not verdict.leaders:
        return f"no verdict: {verdict.reason}"
    beaten = ", ".join(_behind(margin) for margin in verdict.margins if margin.architecture not in verdict.leaders)
    if verdict.ahead is None:
        word = "tie" if verdict.tied else "undecided"
        tied = f"{word}: {', '.join(verdict.leaders)}"
        return f"{tied}{'; behind them: ' if beaten else ''}{beaten} ({verdict.basis})"
    word = "wins" if verdict.primary else "is ahead"
    return f"{verdict.ahead} {word}; behind it: {beaten} ({verdict.basis})"


def _behind(margin: Margin) -> str:
    if margin.outcome == DROPPED:
        return f"{margin.architecture} (answered fewer requests)"
    return f"{margin.architecture} by {margin.relative * 100:.0f}% ({margin.low * 100:.0f} to {margin.high * 100:.0f})"


def _share(part: int | None, whole: int) -> str:
    return "unknown" if part is None else percent(part / whole) if whole else "-"
