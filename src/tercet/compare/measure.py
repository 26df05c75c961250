"""One run: its conversations driven, its record kept, also when it is cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tercet.bench.result import RequestResult
from tercet.bench.run import run_record, shown
from tercet.bench.sender import Headers
from tercet.compare.busy import busy_between, read_busy
from tercet.compare.neighbours import Neighbours
from tercet.compare.seams import Drive
from tercet.http.client import Client
from tercet.report.progress import Narrator
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.traffic.conversation import TokenRange
from tercet.traffic.prompts import Prompts
from tercet.traffic.spec import Talk, TrafficSpec, iter_conversations


@dataclass(frozen=True, slots=True)
class Run:
    """What is sent where, and what its record says of it.

    `worker_urls` are those whose busy counters are read; `ours`: the server is a descendant of this process, so that
    what other programs took is known. So many answers are shown as `show_responses` says.
    """

    architecture: str
    mode: str
    traffic: TrafficSpec
    block: int
    order: int
    salt: str
    url: str
    model: str
    tokens: TokenRange
    prompts: Prompts
    cache_salt: str | None
    worker_urls: Mapping[str, str]
    ours: bool
    headers: Headers = ()
    show_responses: int = 0


async def measure(
    run: Run, text: str, *, client: Client, drive: Drive, narrator: Narrator, keep: Callable[[RunRecord], None]
) -> None:
    """Drive a run; `keep` gets its record, with what was finished when this is cancelled."""
    traffic = run.traffic
    talks: Iterable[Talk] = iter_conversations(traffic, salt=run.salt, tokens=run.tokens, prompts=run.prompts)
    if traffic.num_conversations or not traffic.concurrency:
        talks = tuple(talks)
        total = sum(len(talk.turns) for talk in talks)
    else:
        total = 0
    started = datetime.now(UTC)
    records: list[RequestRecord] = []
    answers: list[RequestResult] = []
    health: ClientHealth | None = None
    neighbours = Neighbours() if run.ours else None
    before = await read_busy(client, run.worker_urls)
    try:
        with narrator.task(text, total) as advance:

            def on_record(record: RequestRecord) -> None:
                records.append(record)
                advance()

            def on_result(result: RequestResult) -> None:
                if result.ok and len(answers) < run.show_responses:
                    answers.append(result)

            health = await drive(
                run.url,
                talks,
                model=run.model,
                cache_salt=run.cache_salt,
                on_record=on_record,
                headers=run.headers,
                concurrency=traffic.concurrency or None,
                ramp_s=traffic.ramp_s,
                until_s=traffic.duration_s,
                on_result=on_result if run.show_responses else None,
            )
    finally:
        if records:
            record = run_record(
                traffic,
                architecture=run.architecture,
                mode=run.mode,
                block=run.block,
                order=run.order,
                salt=run.salt,
                started=started,
                records=records,
                health=health,
                overhead=run.prompts.first_overhead,
            )
            record = replace(record, foreign_cores=neighbours.cores() if neighbours else None)
            if health is not None:
                after = await read_busy(client, run.worker_urls)
                record = replace(record, stages=busy_between(before, after))
            keep(record)
        for answer in answers:
            narrator.say(shown(f"{run.architecture}, turn {answer.turn} of {answer.conversation}", answer.text))


def stop_note(stopped_by: str) -> tuple[str, ...]:
    """Return the note of a measurement that something stopped early; none when nothing did."""
    return (f"Stopped early by {stopped_by}: only what was measured until then is here.",) if stopped_by else ()
