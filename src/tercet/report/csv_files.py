"""Evidence as CSV: every figure, every run, every request, every ratio."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from tercet.report.evidence import Evidence
from tercet.report.metric import METRICS
from tercet.results.document import Results
from tercet.results.summary import throughput

Row = Sequence[object]


def csv_files(results: Results, evidence: Evidence) -> dict[str, str]:
    """Return name and content of every CSV file. Units are in the columns' names; an empty field is unknown."""
    return {
        "summary.csv": _table(_summary_head(), _summary_rows(evidence)),
        "runs.csv": _table(RUN_HEAD, _run_rows(results)),
        "requests.csv": _table(REQUEST_HEAD, _request_rows(results)),
        "ratios.csv": _table(RATIO_HEAD, _ratio_rows(results)),
    }


def _summary_head() -> Row:
    figures = []
    for metric in METRICS:
        unit = "share" if metric.unit == "%" else metric.unit.replace("/", "_per_")
        name = metric.key if metric.key.endswith("_per_s") else f"{metric.key}_{unit}"
        figures += [name, f"{name}_low", f"{name}_high"]
    return (
        "workload", "load_kind", "load", "architecture", "devices", "runs", "invalid_runs", "requests", "answered",
        *figures,
    )  # fmt: skip


def _summary_rows(evidence: Evidence) -> Iterable[Row]:
    for cell in evidence.cells:
        figures: list[object] = []
        for metric in METRICS:
            found = cell.get(metric)
            figures += ["", "", ""] if found is None else [found.value, found.low, found.high]
        place = cell.place
        yield (
            place.workload, place.load_kind, place.load, cell.architecture, cell.devices, cell.runs, cell.invalid_runs,
            cell.requests, cell.ok, *figures,
        )  # fmt: skip


RUN_HEAD = (
    "workload", "load_kind", "load", "architecture", "block", "order", "salt", "started_at", "duration_s", "valid",
    "invalid_reasons", "requests", "answered", "requests_per_s", "output_tokens_per_s", "send_delay_ms_p99",
    "send_delay_ms_max", "loop_lag_ms_p99", "client_cpu_fraction", "foreign_cores",
)  # fmt: skip


def _run_rows(results: Results) -> Iterable[Row]:
    for run in results.runs:
        yield (
            run.workload, run.load_kind, run.load, run.architecture, run.block, run.order, run.salt, run.started_at,
            run.duration_s, not run.invalid, "; ".join(run.invalid_reasons), len(run.requests), len(run.finished),
            *throughput(run), run.client.lateness_ms_p99, run.client.lateness_ms_max, run.client.loop_lag_ms_p99,
            run.client.cpu_fraction, run.foreign_cores,
        )  # fmt: skip


REQUEST_HEAD = (
    "workload", "load_kind", "load", "architecture", "block", "conversation", "turn", "due_s", "sent_s", "done_s",
    "ttft_ms", "tpot_ms", "e2e_ms", "prompt_tokens", "output_tokens", "cached_tokens", "external_tokens", "images",
    "route", "status", "failure", "error", "run_valid",
)  # fmt: skip


def _request_rows(results: Results) -> Iterable[Row]:
    for run in results.runs:
        for request in run.requests:
            times = (request.ttft_ms, request.tpot_ms, request.e2e_ms) if request.ok else ("", "", "")
            yield (
                run.workload, run.load_kind, run.load, run.architecture, run.block, request.conversation, request.turn,
                request.due_s, request.sent_s, request.done_s, *times, request.prompt_tokens, request.output_tokens,
                request.cached_tokens, request.external_tokens, request.images, request.route, request.status,
                request.failure, request.error, not run.invalid,
            )  # fmt: skip


RATIO_HEAD = (
    "workload", "load_kind", "load", "metric", "first", "second", "ratio", "low", "high", "blocks", "crossover",
)  # fmt: skip


def _ratio_rows(results: Results) -> Iterable[Row]:
    for curve in results.curves:
        for point in curve.points:
            yield (
                curve.workload, curve.load_kind, point.load, curve.metric, curve.first, curve.second, point.ratio,
                point.low, point.high, point.blocks, curve.sentence,
            )  # fmt: skip


def _table(head: Row, rows: Iterable[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([_field(value) for value in row])
    return out.getvalue()


def _field(value: object) -> object:
    """Keep six digits of a float, of a large one six behind the point, and text from opening as a formula in a
    spreadsheet. The seconds of a long run are thousands, and its requests' times thousandths of them."""
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e3 else f"{value:.6f}".rstrip("0").rstrip(".")
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return value
