"""Servers that fail: each failure is counted as what it is, and the run ends."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tercet.bench.drive import drive
from tercet.results.record import FAILURES, RequestRecord

from .faulty import FAULTS, KINDS, faulty
from .talks import talks

DEADLINE_S = 2.5
"""Long enough for a busy machine to answer well, short enough to wait for those that never do."""


async def measure(url: str, count: int, concurrency: int | None = None) -> list[RequestRecord]:
    records: list[RequestRecord] = []
    async with asyncio.timeout(60):
        await drive(
            url,
            talks(count, tokens=2),
            model="m",
            on_record=records.append,
            timeout_s=DEADLINE_S,
            idle_timeout_s=DEADLINE_S,
            concurrency=concurrency,
        )
    return records


async def test_every_fault_is_counted_as_what_it_is() -> None:
    names = list(FAULTS)
    assert set(KINDS.values()) <= set(FAILURES) and set(KINDS) == set(FAULTS) - {"well"}
    async with faulty(lambda n: names[n % len(names)]) as (url, done):
        records = await measure(url, 3 * len(names))
    assert done == dict.fromkeys(names, 3)
    kinds = Counter(record.failure for record in records)
    assert kinds == Counter([None] * 3 + [kind for kind in KINDS.values() for _ in range(3)])
    for record in records:
        assert (record.failure is None) == record.ok == (record.error is None)
        assert record.done_s >= record.sent_s


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_server_that_drops_every_tenth_request_has_exactly_ninety_per_cent_success(concurrency: int) -> None:
    # On connections used before, too: a client that quietly sends a request again would count it as a success.
    async with faulty(lambda n: "drops" if n % 10 == 9 else "well") as (url, done):
        records = await measure(url, 200, concurrency=concurrency)
    assert done == {"well": 180, "drops": 20}
    assert Counter(record.failure for record in records) == {None: 180, "closed": 20}


async def test_counts_that_are_none_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"X-Tercet-Cached-Tokens: \xb2\r\nX-Tercet-External-Tokens: " + b"9" * 5000 + b"\r\n\r\n"
    well, stays = FAULTS["well"]
    monkeypatch.setitem(FAULTS, "odd head", (well.replace(b"\r\n\r\n", b"\r\n" + said, 1), stays))
    async with faulty(lambda n: "odd head") as (url, _):
        (record,) = await measure(url, 1)
    assert record.ok and (record.cached_tokens, record.external_tokens) == (None, None)


async def test_nobody_there_is_refused() -> None:
    async with faulty(lambda n: "well") as (url, _):
        pass
    assert Counter(record.failure for record in await measure(url, 3)) == {"refused": 3}
