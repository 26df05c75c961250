"""How busy each stage of each worker was, from the workers' own counters."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from tercet.http.client import Client, ClientError
from tercet.results.record import StageBusy

TIMEOUT_S = 5.0
_LINE = re.compile(r'^tercet:engine_busy_seconds_total\{rank="(\d+)",stage="([a-z]+)"\} (\S+)$', re.MULTILINE)

RankStage = tuple[str, int, str]
"""Worker, rank, stage."""


@dataclass(frozen=True, slots=True)
class BusyReading:
    """The counters of all workers at one moment (perf_counter seconds)."""

    at_s: float
    seconds: Mapping[RankStage, float]


async def read_busy(client: Client, worker_urls: Mapping[str, str]) -> BusyReading:
    """Read the workers' counters. A worker without them, or that doesn't answer, is left out."""
    texts = await asyncio.gather(*(_metrics(client, url) for url in worker_urls.values()))
    seconds = {
        (worker, int(rank), stage): float(value)
        for worker, text in zip(worker_urls, texts, strict=True)
        for rank, stage, value in _LINE.findall(text)
    }
    return BusyReading(perf_counter(), seconds)


def busy_between(before: BusyReading, after: BusyReading) -> tuple[StageBusy, ...]:
    """Return the busy share of every worker's stages between two readings: the mean over its ranks.

    A rank that was started anew meanwhile counts from its start.
    """
    wall_s = after.at_s - before.at_s
    shares: dict[tuple[str, str], list[float]] = {}
    for (worker, rank, stage), seconds in after.seconds.items():
        earlier = before.seconds.get((worker, rank, stage), 0.0)
        spent = seconds - earlier if seconds >= earlier else seconds
        shares.setdefault((worker, stage), []).append(spent / wall_s)
    return tuple(StageBusy(worker, stage, sum(all_) / len(all_)) for (worker, stage), all_ in shares.items())


async def _metrics(client: Client, url: str) -> str:
    try:
        response = await client.request(
            "GET", f"{url}/metrics", first_byte_timeout_s=TIMEOUT_S, idle_timeout_s=TIMEOUT_S
        )
        return (await response.read()).decode("utf-8", "replace") if response.status == 200 else ""
    except ClientError:
        return ""
