"""Deadlines of many connections, watched by one timer: setting one costs an assignment, not a timer."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import Generic, Protocol, TypeVar

NEVER = 1 << 62


class Timed(Protocol):
    """Something with a deadline. `deadline_ns` is on perf_counter's clock; NEVER when nothing is awaited."""

    deadline_ns: int

    def expired(self) -> None:
        """Act on the deadline having passed. Must move or clear it."""


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """The open connections of one server or client; looks every `interval_s` for those whose deadline has passed.

    A look that comes late, since the process stood still, judges by the time at which it was due: what came meanwhile
    has not been read, and is read before the next look.
    """

    def __init__(self, interval_s: float) -> None:
        self.members: set[T] = set()
        self._interval_s = interval_s
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0

    def add(self, member: T) -> None:
        """Watch `member` until it is discarded."""
        self.members.add(member)
        if self._timer is None:
            self._look_again()

    def discard(self, member: T) -> None:
        """Stop watching `member`."""
        self.members.discard(member)

    def stop(self) -> None:
        """Cancel the timer; members stay listed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = min(perf_counter_ns(), self._due_ns)
        for member in [member for member in self.members if member.deadline_ns <= now]:
            member.expired()
        self._timer = None
        if self.members:
            self._look_again()

    def _look_again(self) -> None:
        self._due_ns = perf_counter_ns() + int(self._interval_s * 1e9)
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._look)
