"""One block: its conversations driven, its record kept, also when it is cut short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from tercet.bench.run import run_record
from tercet.compare.neighbours import Neighbours
from tercet.compare.seams import Drive
from tercet.compare.spec import Block
from tercet.report.progress import Narrator
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.traffic.conversation import TokenRange
from tercet.traffic.spec import TrafficSpec, conversations


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
            record = run_record(
                traffic,
                architecture=block.mode,
                mode=block.mode,
                block=block.run,
                order=block.order,
                salt=block.salt,
                started=started,
                records=records,
                health=health,
            )
            keep(replace(record, foreign_cores=neighbours.cores() if neighbours else None))


def stop_note(stopped_by: str) -> tuple[str, ...]:
    """Return the note of a measurement that something stopped early; none when nothing did."""
    return (f"Stopped early by {stopped_by}: only what was measured until then is here.",) if stopped_by else ()
