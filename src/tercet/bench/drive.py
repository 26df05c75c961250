"""The load generator as comparisons use it: conversations in, records of a results file out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter_ns

from tercet.bench.load import OnResult, Talk, run_load
from tercet.bench.result import RequestResult
from tercet.bench.sender import Headers, Sender
from tercet.http.client import Client
from tercet.results.record import ClientHealth, RequestRecord

LEAD_NS = 100_000_000
"""The run's start lies this far ahead, so that the first requests are as punctual as the others."""


async def drive(
    url: str,
    conversations: Sequence[Talk],
    *,
    model: str,
    on_record: Callable[[RequestRecord], None],
    cache_salt: str | None = None,
    concurrency: int | None = None,
    headers: Headers = (),
    timeout_s: float = 600.0,
    on_result: OnResult | None = None,
) -> ClientHealth:
    """Send `conversations` to the server at `url` and return the client's own health.

    `on_record` gets every request as soon as it is over, whole or not; `on_result` the same with its contents. Open
    loop by the conversations' arrivals, or `concurrency` of them at a time. When cancelled, what was over was told.
    """
    client = Client(connect_timeout_s=10.0, max_connections_per_host=16_384)
    with quiet_memory():
        origin_ns = perf_counter_ns() + LEAD_NS

        def tell(result: RequestResult) -> None:
            on_record(result.record(origin_ns))
            if on_result is not None:
                on_result(result)

        try:
            health = await run_load(
                Sender(client, url, headers=headers, timeout_s=timeout_s),
                conversations,
                model=model,
                origin_ns=origin_ns,
                on_result=tell,
                cache_salt=cache_salt,
                concurrency=concurrency,
            )
        finally:
            await client.close()
    return health.for_results()


@contextmanager
def quiet_memory() -> Iterator[None]:
    """Keep what exists already out of the garbage collector's sight: its pauses would be measured."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
