"""Virtual time: events in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Seconds since the start, and what happens when. Events of one instant happen in the order they were named."""

    __slots__ = ("_events", "_named", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._named = 0

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Call `action(*args)` at an instant that is not past."""
        self._named += 1
        heapq.heappush(self._events, (when, self._named, action, args))

    def after(self, seconds: float, action: Callable[..., None], *args: Any) -> None:
        """Call `action(*args)` so much later."""
        self._named += 1
        heapq.heappush(self._events, (self.now + seconds, self._named, action, args))

    def run(self) -> None:
        """Let time pass until nothing is left to happen."""
        events, pop = self._events, heapq.heappop
        while events:
            self.now, _, action, args = pop(events)
            action(*args)
