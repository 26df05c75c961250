from __future__ import annotations

import asyncio
import time
from time import perf_counter_ns

from tercet.http.client import Client
from tercet.http.deadlines import NEVER, Deadlines
from tercet.http.upstream import Upstream

from .wires import until


class Member:
    def __init__(self, seconds: float) -> None:
        self.deadline_ns = perf_counter_ns() + int(seconds * 1e9)
        self.looked = False

    def expired(self) -> None:
        self.deadline_ns = NEVER
        self.looked = True


async def test_a_deadline_that_passed_is_told_of() -> None:
    deadlines: Deadlines[Member] = Deadlines(0.02)
    late, later = Member(0.05), Member(60)
    deadlines.add(late)
    deadlines.add(later)
    await until(lambda: late.looked)
    assert not later.looked
    deadlines.stop()


async def test_whoever_stood_still_with_this_process_gets_the_time_to_speak() -> None:
    """As when a machine pauses: nobody spoke, and that is nobody's fault."""
    deadlines: Deadlines[Member] = Deadlines(0.5)
    speaks, silent = Member(0.8), Member(0.8)
    deadlines.add(speaks)
    deadlines.add(silent)
    time.sleep(1.0)  # a look was due before the deadlines, and comes after them
    for _ in range(5):
        await asyncio.sleep(0)
    speaks.deadline_ns = NEVER
    await until(lambda: silent.looked)
    assert not speaks.looked
    deadlines.stop()


class Streaming:
    """An answer whose bytes come without moving their connection's deadline."""

    abandoned = False
    last_ns = ended_ns = 0

    def lost(self, error: Exception | None) -> None:
        raise AssertionError

    def due_ns(self) -> int:
        return self.last_ns + 800_000_000

    def timed_out(self) -> None:
        self.ended_ns = perf_counter_ns()


async def test_a_stream_that_stood_still_with_this_process_gets_the_time_to_go_on() -> None:
    deadlines: Deadlines[Upstream] = Deadlines(0.5)
    exchange, upstream = Streaming(), Upstream(Client(), ("h", 1, False))
    exchange.last_ns = began_ns = perf_counter_ns()
    upstream.exchange, upstream.deadline_ns = exchange, began_ns + 100_000_000  # set long before the last bytes came
    deadlines.add(upstream)
    time.sleep(1.0)  # the look that finds that deadline over comes when the last bytes are old, too
    for _ in range(5):
        await asyncio.sleep(0)
    exchange.last_ns = perf_counter_ns()
    assert not exchange.ended_ns
    await until(lambda: exchange.ended_ns > 0)
    assert exchange.ended_ns >= exchange.due_ns()
    deadlines.stop()
