"""One block: its conversations driven, its record kept, also when it is cut short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tercet.compare.neighbours import Neighbours
from tercet.compare.seams import Drive
from tercet.compare.spec import Block
from tercet.report.progress import Narrator
from tercet.results.document import TrafficRecord
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.traffic.conversation import TokenRange
from tercet.traffic.workload import TrafficSpec, conversations

NOT_MEASURED = ClientHealth(0.0, 0.0, 0.0, 0.0, 0.0, saturated=False, reasons=("interrupted before it was known",))


async def measure(
    drive: Drive,
    narrator: Narrator,
    block: Block,
    traffic: TrafficSpec,
    *,
    url: str,
    model: str,
    tokens: TokenRange,
    cache_salt: str | None,
    text: str,
    keep: Callable[[RunRecord], None],
    server_is_ours: bool,
) -> None:
    """Drive a block's traffic against `url`; `keep` gets its record, with what was finished when this is cancelled.

    `server_is_ours`: it runs as this process's descendants, so that what other programs took is known.
    """
    talks = conversations(traffic, salt=block.salt, tokens=tokens)
    started = datetime.now(UTC)
    records: list[RequestRecord] = []
    health: ClientHealth | None = None
    neighbours = Neighbours() if server_is_ours else None
    try:
        with narrator.task(text, len(talks) * traffic.turns) as advance:

            def on_record(record: RequestRecord) -> None:
                records.append(record)
                advance()

            health = await drive(url, talks, model=model, cache_salt=cache_salt, on_record=on_record)
    finally:
        if records:
            record = run_record(block, traffic.workload.name, started, records, health)
            keep(replace(record, foreign_cores=neighbours.cores() if neighbours else None))


def run_record(
    block: Block, workload: str, started: datetime, records: Sequence[RequestRecord], health: ClientHealth | None
) -> RunRecord:
    """Return a block's record; `health` None says that it was cut short. Says why it is no evidence, if it isn't."""
    ordered = tuple(sorted(records, key=lambda record: record.sent_s))
    reasons = list(health.reasons or ("the client was saturated",)) if health is not None and health.saturated else []
    warm = sum(record.cached_tokens or 0 for record in ordered if record.turn == 1)
    if warm:
        reasons.append(f"first turns found {warm} tokens in a cache that should have been empty")
    return RunRecord(
        architecture=str(block.mode),
        mode=str(block.mode),
        workload=workload,
        load_kind="qps",
        load=block.qps,
        block=block.run,
        order=block.order,
        salt=block.salt,
        started_at=started.isoformat(timespec="milliseconds"),
        duration_s=max(record.done_s for record in ordered) - ordered[0].sent_s,
        client=health or NOT_MEASURED,
        requests=ordered,
        invalid_reasons=tuple(reasons),
        complete=health is not None,
    )


def traffic_record(traffic: TrafficSpec, scale: float) -> TrafficRecord:
    """Return what a results file says of the traffic; `scale` is what its workload was scaled by."""
    return TrafficRecord(
        workload=traffic.workload.name,
        scale=scale,
        input_tokens=traffic.workload.input_tokens,
        output_tokens=traffic.workload.output_tokens,
        turns=traffic.turns,
        think_s=traffic.think_s,
        arrivals=str(traffic.arrivals),
        num_requests=traffic.num_conversations * traffic.turns,
    )


def stop_note(stopped_by: str) -> tuple[str, ...]:
    """Return the note of a measurement that something stopped early; none when nothing did."""
    return (f"Stopped early by {stopped_by}: only what was measured until then is here.",) if stopped_by else ()
