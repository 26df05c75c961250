"""The record of one run: its requests, what the client measured of itself, and why it is no evidence, if it isn't."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import fmean
from typing import Any

from tercet.results.document import TrafficRecord
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.spec import LoadKind, TrafficSpec
from tercet.traffic.workload import Workload

NOT_MEASURED = ClientHealth(0.0, 0.0, 0.0, 0.0, 0.0, saturated=False, reasons=("interrupted before it was known",))

SHOWN_CHARS = 200
"""Of an answer that is shown, so much."""

CLOSED = "closed"
"""What results call the arrivals of a closed loop."""


def run_record(
    traffic: TrafficSpec,
    *,
    architecture: str,
    mode: str,
    block: int,
    order: int,
    salt: str,
    started: datetime,
    records: Sequence[RequestRecord],
    health: ClientHealth | None,
    overhead: int = 0,
) -> RunRecord:
    """Return a run's record; `health` None says that it was cut short. `records` must not be empty.

    `overhead` are the tokens that the server adds to a first turn (a chat template's): they may come from a cache.
    """
    ordered = tuple(sorted(records, key=lambda record: record.sent_s))
    reasons = list(health.reasons or ("the client was saturated",)) if health is not None and health.saturated else []
    warm = (
        0 if traffic.shares_prefixes else sum(max(0, (r.cached_tokens or 0) - overhead) for r in ordered if r.turn == 1)
    )
    if warm:
        reasons.append(f"first turns found {warm} tokens in a cache that should have been empty")
    return RunRecord(
        architecture=architecture,
        mode=mode,
        workload=traffic.name,
        load_kind=str(traffic.load_kind),
        load=traffic.load,
        block=block,
        order=order,
        salt=salt,
        started_at=started.isoformat(timespec="milliseconds"),
        duration_s=max(record.done_s for record in ordered) - ordered[0].sent_s,
        client=health or NOT_MEASURED,
        requests=ordered,
        invalid_reasons=tuple(reasons),
        complete=health is not None,
        window_s=steady_window(traffic.ramp_s, ordered),
    )


def shown(who: str, text: str) -> str:
    """Return a line that shows the beginning of an answer; `who` says whose and to what."""
    return f"  {who}: {text[:SHOWN_CHARS]!r}{'...' if len(text) > SHOWN_CHARS else ''}"


def steady_window(ramp_s: float, records: Sequence[RequestRecord]) -> tuple[float, float] | None:
    """Return the part of a run under its whole load: from the ramp's end to the last conversation's start.

    None without a ramp, and where nothing lies between the two.
    """
    end_s = max((record.due_s for record in records if record.turn == 1), default=0.0)
    return (ramp_s, end_s) if 0 < ramp_s < end_s else None


def unsteady_notes(ramp_s: float, runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """Return what is to be said of runs that ended before their load stood, so that their figures are of the whole."""
    return tuple(
        f"{run.workload} at {run.load:g}{'/s' if run.load_kind == LoadKind.QPS else ' at once'}: no conversation began "
        f"after the ramp of {ramp_s:g} s: figures are of the whole run, under less than its load."
        for run in runs
        if ramp_s and run.window_s is None
    )


def traffic_record(traffic: TrafficSpec, scale: float) -> TrafficRecord:
    """Return what a results file says of the traffic; `scale` is what its workload was scaled by."""
    workload, dataset = traffic.workload, traffic.dataset
    turns = () if dataset is None else dataset.turns
    return TrafficRecord(
        workload=traffic.name,
        scale=1.0 if turns else scale,
        input_tokens=round(fmean(turn.new_tokens for turn in turns) if turns else workload.inputs.mean),
        output_tokens=round(fmean(turn.output_tokens for turn in turns) if turns else workload.outputs.mean),
        turns=traffic.turns,
        think_s=traffic.think_s,
        arrivals=CLOSED if traffic.concurrency else str(traffic.arrivals),
        num_requests=traffic.requests,
        options=_options(traffic),
    )


def _options(traffic: TrafficSpec) -> dict[str, Any]:
    """Return what else the traffic was told, as far as it was told anything."""
    found: dict[str, Any] = {
        "duration_s": traffic.duration_s,
        "ramp_s": traffic.ramp_s or None,
        "burstiness": traffic.burstiness if traffic.arrivals is Arrivals.GAMMA else None,
        "trace_speed": traffic.speed if traffic.arrivals is Arrivals.TRACE else None,
    }
    if traffic.dataset is None:
        found |= _shape_options(traffic.workload)
    else:
        found |= {"dataset": traffic.dataset.kind, "dataset_fingerprint": traffic.dataset.fingerprint}
    return {name: value for name, value in found.items() if value is not None}


def _shape_options(workload: Workload) -> dict[str, Any]:
    pictures = workload.pictures
    return {
        "input_range": None if workload.inputs.fixed else str(workload.inputs),
        "output_range": None if workload.outputs.fixed else str(workload.outputs),
        "prefix_tokens": workload.prefix_tokens or None,
        "prefix_groups": workload.prefix_groups if workload.prefix_tokens else None,
        "images": None if pictures is None else f"{pictures.low}-{pictures.high}",
        "image_size": None if pictures is None else f"{pictures.width}x{pictures.height}",
        "image_pool": None if pictures is None else pictures.pool or None,
    }
