"""Handoffs: who owns a ticket's blocks between P's answer and D's acceptance."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tercet.core.errors import RequestError
from tercet.dialects.protocol import Answer, Exchange, Leg
from tercet.http.client import ClientError, Response
from tercet.router.metrics import RouterMetrics

log = logging.getLogger(__name__)

RELEASE_ATTEMPTS = 3
RELEASE_PAUSE_S = 0.5
ABANDON_S = 5.0
MAX_BACKGROUND = 4096
WAITING_PER_SLOT = 16

Send = Callable[[Leg], Awaitable[Answer]]


class Handoffs:
    """Bounds the unaccepted handoffs of each decode rank, and sees to it that what nobody accepted is released.

    Releases run in the background with a deadline: the client that caused them is gone. `elsewhere` counts the
    unaccepted of other processes, by decode rank.
    """

    def __init__(self, limit: int, send: Send, metrics: RouterMetrics) -> None:
        self._limit, self._send, self._metrics = limit, send, metrics
        self._taken: dict[str, int] = {}
        self.elsewhere: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._background: set[asyncio.Task[None]] = set()

    def unaccepted(self, address: str) -> int:
        """Return how many handoffs to this decode rank are under way."""
        return self._taken.get(address, 0) + self.elsewhere[address]

    def admit(self, address: str) -> bool:
        """Take a place at a decode rank, if there is a free one."""
        taken = self._taken.get(address, 0)
        if taken >= self._limit:
            return False
        self._taken[address] = taken + 1
        return True

    async def enter(self, address: str, timeout_s: float) -> None:
        """Wait for a free place at a decode rank, first come, first served. Raises RequestError 503."""
        if self.admit(address):
            return
        waiting = self._waiting.setdefault(address, deque())
        if len(waiting) >= WAITING_PER_SLOT * self._limit:
            raise _overloaded("and too many requests wait for them")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(place)
        try:
            async with asyncio.timeout(timeout_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self.leave(address)  # the place was given in the moment of giving up
            elif place in waiting:
                waiting.remove(place)
            if isinstance(error, TimeoutError):
                raise _overloaded(f"and none was accepted within {timeout_s:g} s") from None
            raise

    def leave(self, address: str) -> None:
        """Give a place up: to who waits the longest, else back."""
        waiting = self._waiting.get(address)
        while waiting:
            place = waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._taken[address] -= 1

    def release(self, legs: tuple[Leg, ...]) -> None:
        """Send releases in the background, each after the one before is answered."""
        if legs:
            self._start(self._release_all(legs))

    def expires(self, reason: str) -> None:
        """Note that the end of a lease will free blocks, as nobody can."""
        self._metrics.handoff_expiries.add(reason)

    def abandon(self, exchange: Exchange, leg: Leg, task: asyncio.Task[Answer], begun: list[Response]) -> None:
        """Give up a prefill leg whose client is gone: P is told, and a ticket that comes all the same is released."""
        self._start(self._abandon(exchange, leg, task, begun), task)

    async def close(self, grace_s: float) -> None:
        """Let releases under way end, then cancel the rest."""
        if self._background:
            await asyncio.wait(set(self._background), timeout=grace_s)
        for task in list(self._background):
            task.cancel()
        if self._background:
            await asyncio.wait(set(self._background), timeout=1.0)

    def _start(self, work: Coroutine[Any, Any, None], beside: asyncio.Task[Answer] | None = None) -> None:
        if len(self._background) >= MAX_BACKGROUND:
            work.close()
            if beside is not None:
                beside.cancel()
            log.warning("too many releases at once: these blocks are freed when their lease ends")
            self.expires("dropped")
            return
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if task.cancelled():
            self.expires("shutdown")
        elif task.exception() is not None:
            # Nobody knows any more what became of these blocks.
            self._metrics.handoff_leaks.add()
            log.critical("a release ended by a fault of its own", exc_info=task.exception())

    async def _release_all(self, legs: tuple[Leg, ...]) -> None:
        for leg in legs:
            await self._release(leg)

    async def _release(self, leg: Leg) -> None:
        problem = ""
        for attempt in range(RELEASE_ATTEMPTS):
            if attempt:
                await asyncio.sleep(RELEASE_PAUSE_S)
            try:
                answer = await self._send(leg)
            except ClientError as error:
                problem = str(error)
                continue
            if answer.status < 500:
                self._metrics.releases.add()
                return
            problem = f"it answered {answer.status}"
        self.expires("unanswered")
        log.warning("a release at %s failed (%s): the lease's end will free the blocks", leg.rank.label, problem)

    async def _abandon(self, exchange: Exchange, leg: Leg, task: asyncio.Task[Answer], begun: list[Response]) -> None:
        # Not simply cancelled: an answer that is on its way holds the only name of the blocks.
        if begun:
            begun[-1].half_close()
        else:
            task.cancel()
        await asyncio.wait({task}, timeout=ABANDON_S)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
        if task.cancelled() or task.exception() is not None:
            return
        exchange.on_answer(leg, task.result())
        await self._release_all(exchange.on_exit(accepted=False))


def _overloaded(why: str) -> RequestError:
    return RequestError(503, f"too many handoffs to a decode worker are not accepted yet, {why}", code="overloaded")
