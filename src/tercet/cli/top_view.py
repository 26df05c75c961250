"""How `tercet top` looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tercet.cli.top_figures import LATENCIES, Figures, Record, e2e_ms, quantile, tpot_ms, ttft_ms
from tercet.router.span import PHASES, STREAM

STAGE_STYLE = {"E": "magenta", "P": "blue", "D": "green", "A": "cyan"}
PHASE_STYLE = {
    "queue": "bright_black",
    "encode": "magenta",
    "prefill": "blue",
    "handoff": "yellow",
    "decode_first_token": "green",
    STREAM: "bright_green",
}
LETTERS = {"queue": "q", "encode": "e", "prefill": "p", "handoff": "h", "decode_first_token": "d"}
"""Colours alone would say nothing to a pipe, nor to everybody."""
BARS = "▁▂▃▄▅▆▇█"
METER, HOPS = 10, 24
NONE = "-"
FIXED_LINES = 6


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: left out of terminals narrower than `least` columns."""

    title: str
    least: int = 0
    right: bool = False


def frame(figures: Figures, url: str, *, width: int, height: int, problem: str | None = None) -> RenderableType:
    """Return the whole picture for a terminal of that size, as far as requests go. `problem`: why there is no newer
    one."""
    status = figures.status
    ranks, summary, troubles = _ranks(figures, width), _summary(figures, width), _troubles(status)
    used = FIXED_LINES + ranks.row_count + len(LATENCIES) + len(troubles) + len(summary)
    return Group(
        _head(figures, url, problem),
        *summary,
        ranks,
        *(Text(line, style="yellow") for line in troubles),
        _latencies(figures),
        _requests(figures.latest(max(3, height - used)), width),
    )


def milliseconds(value: float | None) -> str:
    """Return a time with three digits and its unit."""
    if value is None:
        return NONE
    if value >= 999.5:
        return f"{value / 1000:.{1 if value >= 9995 else 2}f} s"
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} ms"


def spark(values: Sequence[float | None]) -> str:
    """Return a line of bars, its scale from zero; a blank where nothing is known."""
    top = max((value for value in values if value is not None), default=0.0)
    if top <= 0:
        return " " * len(values)
    return "".join(" " if v is None else BARS[min(len(BARS) - 1, int(v / top * len(BARS)))] for v in values)


def timeline(record: Record, longest_ms: float, width: int = HOPS) -> Text:
    """Return a request's way to its first token as a bar, a letter for each phase."""
    cells = [" "] * width
    styles = [""] * width
    for span in record["spans"]:
        if span["phase"] == STREAM:
            continue
        start = int(span["start_ms"] / longest_ms * width)
        for at in range(start, min(width, max(start + 1, round(span["end_ms"] / longest_ms * width)))):
            cells[at] = "x" if "error" in span else LETTERS[span["phase"]]
            styles[at] = "red" if "error" in span else PHASE_STYLE[span["phase"]]
    text = Text(no_wrap=True)
    for cell, style in zip(cells, styles, strict=True):
        text.append(cell, style=f"reverse {style}" if style else "")
    return text


def _head(figures: Figures, url: str, problem: str | None) -> Text:
    status = figures.status
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("tercet ", style="bold").append(f"{status['version']}  {url}  mode ")
    text.append(status["mode"], style="bold")
    if problem is not None:
        text.append(f"  no answer: {problem}", style="bold red")
    elif status["ready"]:
        text.append("  ● ready", style="green")
    else:
        text.append(f"  ◆ NOT READY: {status['reason']}", style="bold red")
    return text.append(f"  up {_duration(status['uptime_s'])}", style="bright_black")


def _summary(figures: Figures, width: int) -> list[Text]:
    status, failed = figures.status, figures.failed_share()
    ttft, tpot = figures.values(ttft_ms), figures.values(tpot_ms)
    pairs = [
        ("requests/s", _rate(figures.rate("requests"))),
        ("output tokens/s", _rate(figures.tokens_per_second())),
        ("in flight", f"{status['in_flight']:,}"),
        ("waiting", f"{status['waiting']:,}"),
        ("TTFT p50", milliseconds(quantile(ttft, 0.5))),
        ("p95", milliseconds(quantile(ttft, 0.95))),
        ("TPOT p50", milliseconds(quantile(tpot, 0.5))),
        ("failed", NONE if failed is None else f"{failed:.1%}"),
    ]
    lines = [Text()]
    for name, value in pairs:
        if len(lines[-1]) + len(name) + len(value) + 4 > width:
            lines.append(Text())
        bad = name in ("failed", "waiting") and value not in (NONE, "0", "0.0%")
        lines[-1].append("   " if lines[-1] else "").append(name + " ", style="bright_black")
        lines[-1].append(value, style="bold red" if bad else "bold")
    return lines


RANK_COLUMNS = (
    Column("rank"),
    Column("state"),
    Column("in flight", right=True),
    Column("req/s", right=True),
    Column("to prefill", right=True),
    Column("KV use"),
    Column("prefix blocks", 98, right=True),
    Column("open handoffs", 115, right=True),
    Column("routed", 125, right=True),
    Column("address", 75),
)


def _ranks(figures: Figures, width: int) -> Table:
    rates, rows = figures.rank_rates(), []
    for worker in figures.status["workers"]:
        for rank in worker["ranks"]:
            state, style = _state(worker, rank)
            blocks = rank["prefix_blocks"] if rank["told_blocks"] is None else rank["told_blocks"]
            rows.append(
                (
                    Text(rank["name"], style=f"bold {STAGE_STYLE[worker['role']]}"),
                    Text(state, style=style),
                    f"{rank['requests']:,}",
                    _rate(rates.get(rank["name"], 0.0)),
                    f"{rank['tokens']:,}",
                    _meter(rank["kv_use"]),
                    f"{blocks:,}",
                    f"{rank['unaccepted_handoffs']:,}",
                    f"{rank['routed']:,}",
                    Text(rank["address"].partition("://")[2], style="bright_black"),
                )
            )
    return _table(RANK_COLUMNS, rows, width)


def _table(columns: Sequence[Column], rows: Sequence[Sequence[RenderableType]], width: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        if width >= column.least:
            table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(cell for column, cell in zip(columns, row, strict=True) if width >= column.least))
    return table


def _latencies(figures: Figures) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("last minute")
    table.add_column("p50", justify="right", min_width=8)
    table.add_column("p95", justify="right", min_width=8)
    table.add_column("median over time")
    styles = {name: PHASE_STYLE.get(phase, "") for name, phase in zip(LATENCIES, PHASES, strict=False)}
    for name, value in LATENCIES.items():
        values = figures.values(value)
        letter = next((f" {x}" for phase, x in LETTERS.items() if name in phase.replace("_", " ")), "")
        row = (milliseconds(quantile(values, 0.5)), milliseconds(quantile(values, 0.95)), spark(figures.series(value)))
        style = "bold" if name in ("TTFT", "TPOT", "E2E") else styles.get(name, "")
        table.add_row(Text(name + letter, style=style), *row[:2], Text(row[2], style=styles.get(name, "")))
    return table


REQUEST_COLUMNS = (
    Column("time"),
    Column("route"),
    Column("mode", 130),
    Column("turn", 120),
    Column("prompt", 110, right=True),
    Column("cached", 140, right=True),
    Column("output", 100, right=True),
    Column("TTFT", right=True),
    Column("TPOT", 90, right=True),
    Column("E2E", right=True),
    Column("status"),
)


def _requests(records: list[Record], width: int) -> Table:
    reach = sorted(_reach(record) for record in records)
    longest = max(reach[int((len(reach) - 1) * 0.95)], 1e-3) if reach else 1.0
    rows = []
    for record in records:
        prompt, cached, bad = record["prompt_tokens"], record["cached_tokens"], record["status"] >= 400
        ending = record["error"] or record["finish_reason"] or ""
        rows.append(
            (
                datetime.fromtimestamp(record["started_at"]).strftime("%H:%M:%S"),
                record["route"] or NONE,
                record["mode"],
                record["turn"],
                NONE if prompt is None else f"{prompt:,}",
                NONE if not prompt or cached is None else f"{cached / prompt:.0%}",
                NONE if record["output_tokens"] is None else f"{record['output_tokens']:,}",
                milliseconds(ttft_ms(record)),
                milliseconds(tpot_ms(record)),
                milliseconds(e2e_ms(record)),
                Text(f"{record['status']} {ending if width >= 110 else ''}".strip(), style="red" if bad else ""),
                timeline(record, longest, HOPS if width >= 110 else HOPS // 2),
            )
        )
    title = f"first token, 0 - {milliseconds(longest)}" if width >= 110 else f"0 - {milliseconds(longest)}"
    return _table((*REQUEST_COLUMNS, Column(title)), rows, width)


def _troubles(status: dict[str, Any]) -> list[str]:
    workers = [(", ".join(rank["name"] for rank in w["ranks"]), w) for w in status["workers"]]
    lines = [f"{names}: {w['problem']}" for names, w in workers if w["problem"] and not w["draining"]]
    lines += [f"{pair['pair']}: {pair['problem']}" for pair in status["pairs"] if pair["problem"]]
    return [*lines, status["unmatched"]] if status["unmatched"] else lines


def _state(worker: dict[str, Any], rank: dict[str, Any]) -> tuple[str, str]:
    if worker["draining"]:
        return f"draining {worker['drain_left_s']:.0f} s", "yellow"
    if rank["ready"]:
        return "ready", ""
    if worker["problem"]:
        return "DOWN", "bold red"
    return ("probing", "yellow") if rank["breaker"] == "closed" else (f"breaker {rank['breaker']}", "yellow")


def _reach(record: Record) -> float:
    ends = [span["end_ms"] for span in record["spans"] if span["phase"] != STREAM]
    return float(max(ends, default=record["duration_ms"]))


def _meter(share: float | None) -> Text:
    if share is None:
        return Text(NONE.rjust(METER + 5), style="bright_black")
    full = round(share * METER)
    text = Text("█" * full, style="red" if share > 0.9 else "")
    return text.append("░" * (METER - full), style="bright_black").append(f"{share:5.0%}")


def _rate(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds) // 3600, int(seconds) // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{seconds:.0f} s"
