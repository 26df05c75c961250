"""Metrics in Prometheus' text format, in pieces: what a large fleet has to say takes long to write, and all at once it
would hold every stream up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from time import perf_counter

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

SAMPLES = 32
"""So many are written in a millisecond at most."""
AT_ONCE_S = 0.001


def pieces(metrics: Iterable[Metric]) -> Iterator[bytes]:
    """Yield the text of metrics; together it is what they are as a whole. Metrics of one name that follow each other
    are one."""
    before = None
    for metric in metrics:
        for at in range(0, max(1, len(metric.samples)), SAMPLES):
            part = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            part.samples = metric.samples[at : at + SAMPLES]
            text = _written(part)
            if metric.name == before:
                text = text.split(b"\n", 2)[2]  # its help and its type are said
            before = metric.name
            yield text


async def joined(parts: Iterable[bytes]) -> bytes:
    """Return the pieces as one. Streams go on after each millisecond, but not after each piece: a busy event loop's
    round takes long, and Prometheus waits for ten seconds."""
    text: list[bytes] = []
    began = perf_counter()
    for part in parts:
        text.append(part)
        if perf_counter() - began >= AT_ONCE_S:
            await asyncio.sleep(0)
            began = perf_counter()
    return b"".join(text)


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _written(metric: Metric) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_One(metric))
    return generate_latest(registry)
