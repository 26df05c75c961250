"""The load generator as comparisons use it: conversations in, records of a results file out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from tercet.bench.health import Vitals, judge
from tercet.bench.load import OnResult, Talk, run_load
from tercet.bench.result import RequestResult
from tercet.bench.sender import Headers, Sender
from tercet.bench.tally import Tally
from tercet.http.client import Client
from tercet.results.record import ClientHealth, RequestRecord

LEAD_NS = 100_000_000
"""The run's start lies this far ahead, so that the first requests are as punctual as the others."""

RARELY = 50_000
"""Objects made between two looks of the garbage collector at the youngest."""

OnRecord = Callable[[RequestRecord], None]


async def drive(
    url: str,
    conversations: Iterable[Talk],
    *,
    model: str,
    on_record: OnRecord,
    cache_salt: str | None = None,
    concurrency: int | None = None,
    ramp_s: float = 0.0,
    until_s: float | None = None,
    headers: Headers = (),
    timeout_s: float = 600.0,
    idle_timeout_s: float = 60.0,
    on_result: OnResult | None = None,
) -> ClientHealth:
    """Send `conversations` to the server at `url` and return the client's own health.

    `on_record` gets every request as soon as it is over, whole or not; `on_result` the same with its contents. Open
    loop by the conversations' arrivals, or `concurrency` of them at a time, as `run_load` says. When cancelled, what
    was over was told.
    """
    records: list[RequestRecord] = []
    origin_ns = 0

    def tell(result: RequestResult) -> None:
        records.append(result.record(origin_ns))
        on_record(records[-1])
        if on_result is not None:
            on_result(result)

    with quiet_memory():
        origin_ns = perf_counter_ns() + LEAD_NS
        vitals = await send_all(
            url,
            conversations,
            model=model,
            origin_ns=origin_ns,
            on_result=tell,
            cache_salt=cache_salt,
            concurrency=concurrency,
            ramp_s=ramp_s,
            until_s=until_s,
            headers=headers,
            timeout_s=timeout_s,
            idle_timeout_s=idle_timeout_s,
        )
    return judge(records, (vitals,), closed=concurrency is not None)


async def send_all(
    url: str,
    conversations: Iterable[Talk],
    *,
    model: str,
    origin_ns: int,
    on_result: OnResult,
    cache_salt: str | None,
    concurrency: int | None,
    ramp_s: float,
    until_s: float | None,
    headers: Headers,
    timeout_s: float,
    idle_timeout_s: float,
    tally: Tally | None = None,
) -> Vitals:
    """Run `run_load` with a client of its own; enter `quiet_memory` before the start is named.

    The client never sends a request twice: one that the server drops is a failure, and counted. So that no connection
    is found closed by the server's own keep-alive limit, idle ones are dropped after a second.
    """
    client = Client(connect_timeout_s=10.0, max_connections_per_host=16_384, keep_alive_s=1.0, resend=False)
    sender = Sender(client, url, headers=headers, timeout_s=timeout_s, idle_timeout_s=idle_timeout_s, tally=tally)
    try:
        return await run_load(
            sender,
            conversations,
            model=model,
            origin_ns=origin_ns,
            on_result=on_result,
            cache_salt=cache_salt,
            concurrency=concurrency,
            ramp_s=ramp_s,
            until_s=until_s,
        )
    finally:
        await client.close()


@contextmanager
def quiet_memory() -> Iterator[None]:
    """Keep what exists already out of the garbage collector's sight, and let it look seldom: pauses are measured.

    Garbage is collected first, which takes longer the more a process keeps: enter this before a start is decided.
    """
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(RARELY, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
