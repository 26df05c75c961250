from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter, sleep

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from tercet.router.exposition import SAMPLES, joined, pieces
from tercet.router.metrics import RouterMetrics


def full(workers: int) -> RouterMetrics:
    metrics = RouterMetrics()
    for i in range(workers):
        for turn in ("first", "later"):
            where = ("pd", f"D{i}", turn)
            for spread in (*metrics.phases.values(), metrics.duration, metrics.token_time, metrics.time_to_first_byte):
                spread.add(where, 0.01 * i)
            metrics.prompt_tokens.values[where] += 7
    metrics.requests.add("pd", "200")
    return metrics


def test_in_pieces_it_is_what_the_library_writes() -> None:
    for workers in (0, 1, 9, 40):
        metrics = full(workers)
        registry = CollectorRegistry()
        registry.register(metrics)
        assert b"".join(metrics.pieces()) == metrics.render() == generate_latest(registry)


def test_a_gauge_of_many_is_cut_and_named_once() -> None:
    gauge = GaugeMetricFamily("g", "A \\ and\na line", labels=("rank",))
    for i in range(100):
        gauge.add_metric((f'"{i}"',), i)
    found = list(pieces([gauge]))
    assert len(found) == 4 and b"".join(found).count(b"# HELP") == 1
    assert sum(text.count(b"g{") for text in found) == 100


def test_no_piece_takes_long() -> None:
    found, longest, began = full(64).pieces(), [0.0], perf_counter()
    while next(found, None) is not None:
        longest.append(perf_counter() - began)
        began = perf_counter()
    assert len(longest) > 400
    assert max(text.count(b"\n") for text in full(64).pieces()) <= SAMPLES + 2
    assert sorted(longest)[len(longest) // 2] < 0.02


async def test_others_go_on_meanwhile_but_not_after_each_piece() -> None:
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    def slow() -> Iterator[bytes]:
        for _ in range(10):
            sleep(0.002)
            yield b"x"

    task = asyncio.create_task(others())
    assert await joined(slow()) == b"x" * 10 and rounds >= 10
    rounds = 0
    assert await joined([b"x"] * 1000) == b"x" * 1000 and rounds < 100
    task.cancel()
