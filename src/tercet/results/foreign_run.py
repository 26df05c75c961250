"""What another tool's file comes to: runs, and the results document of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tercet.core.errors import UsageError
from tercet.results.document import ArchitectureRecord, Machine, Results, TrafficRecord
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.results.summary import summarise

NOT_SAID = ClientHealth(0.0, 0.0, 0.0, 0.0, 0.0, saturated=False, reasons=("the tool does not say",))


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """One load measured by another tool. `label` names what was measured; times of `requests` as in our own runs."""

    tool: str
    label: str
    model: str
    load_kind: str
    load: float
    started: datetime
    duration_s: float
    requests: tuple[RequestRecord, ...]
    complete: bool = True
    notes: tuple[str, ...] = ()


def foreign_results(path: Path, runs: Sequence[ForeignRun]) -> Results:
    """Return the document of what another tool measured. Raises UsageError when no request is in it."""
    if not any(run.requests for run in runs):
        raise UsageError(f"{path} holds no requests, only sums of them")
    first = runs[0]
    records = tuple(_record(run, order) for order, run in enumerate(runs) if run.requests)
    ok = [request for run in records for request in run.finished]
    traffic = TrafficRecord(
        workload=first.tool,
        scale=1.0,
        input_tokens=round(sum(r.prompt_tokens for r in ok) / len(ok)) if ok else 1,
        output_tokens=round(sum(r.output_tokens for r in ok) / len(ok)) if ok else 1,
        turns=max(request.turn for run in records for request in run.requests),
        think_s=0.0,
        arrivals="closed" if first.load_kind == "concurrency" else "poisson",
        num_requests=len(records[0].requests),
    )
    results_of = f"Measured by {first.tool}, imported from {path.name}; its machine and settings are not known here."
    return Results(
        kind="bench",
        created_at=first.started.astimezone(UTC).isoformat(timespec="seconds"),
        command=(first.tool,),
        versions={},
        machine=Machine("unknown", 1, 1, 1, "unknown"),
        model=first.model,
        seed=0,
        traffics=(traffic,),
        architectures=tuple(
            ArchitectureRecord(label, label, "", {}, 1, {}, {}) for label in dict.fromkeys(run.label for run in runs)
        ),
        runs=records,
        summaries=summarise(records, {}),
        verdicts=(),
        answers=None,
        notes=(results_of, *dict.fromkeys(note for run in runs for note in run.notes)),
        interrupted=not all(run.complete for run in runs),
    )


def spread_pieces(first_s: float, last_s: float, tokens: int) -> tuple[float, ...]:
    """Return times of `tokens` pieces, evenly from the first to the last, where a tool keeps none between."""
    if tokens < 2 or last_s <= first_s:
        return (first_s,)
    return tuple(first_s + (last_s - first_s) * i / (tokens - 1) for i in range(tokens))


def failed_kind(message: str) -> str:
    """Return which of our kinds of failure another tool's message tells of, as far as it can be told."""
    text = message.lower()
    for words, kind in (
        (("timeout", "timed out"), "timeout"),
        (("refused", "cannot connect", "connect call failed"), "refused"),
        (("disconnected", "closed", "reset", "incomplete"), "closed"),
        (("429", "400", "401", "403", "404", "422"), "http_4xx"),
        (("500", "502", "503", "504", "internal server error"), "http_5xx"),
    ):
        if any(word in text for word in words):
            return kind
    return "invalid_answer"


def _record(run: ForeignRun, order: int) -> RunRecord:
    return RunRecord(
        architecture=run.label,
        mode=run.label,
        workload=run.tool,
        load_kind=run.load_kind,
        load=run.load,
        block=0,
        order=order,
        salt="",
        started_at=run.started.astimezone(UTC).isoformat(timespec="milliseconds"),
        duration_s=run.duration_s,
        client=NOT_SAID,
        requests=tuple(sorted(run.requests, key=lambda request: request.sent_s)),
        complete=run.complete,
    )
