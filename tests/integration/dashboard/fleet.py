"""A router with small workers in a thread of its own, for tests that block while a browser works."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.unit.router.harness import Setup, routing

T = TypeVar("T")


class Fleet:
    """`setup` as in the router's own tests; coroutines run by `do`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, setup: Setup) -> None:
        self._loop, self.setup = loop, setup

    def do(self, work: Coroutine[Any, Any, T], timeout_s: float = 20.0) -> T:
        """Run a coroutine over there; return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine over there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)


@contextmanager
def fleet(letters: str, mode: str, **config: Any) -> Iterator[Fleet]:
    """`PPD`: two prefill workers and a decode worker behind a router."""
    started: Future[Fleet] = Future()
    leave: list[asyncio.Event] = []

    async def live() -> None:
        try:
            async with routing(letters, mode, **config) as setup:
                leave.append(asyncio.Event())
                started.set_result(Fleet(asyncio.get_running_loop(), setup))
                await leave[0].wait()
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="fleet")
    thread.start()
    here = started.result(60)
    try:
        yield here
    finally:
        here.begin(_set(leave[0]))
        thread.join(60)
        assert not thread.is_alive(), "the fleet did not end"


async def _set(event: asyncio.Event) -> None:
    event.set()
