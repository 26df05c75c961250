"""When leases end: the next end quickly, however often they are renewed."""

from __future__ import annotations

import heapq

FEW = 64
"""So many outdated ends are not worth the tidying."""


class LeaseEnds:
    """Ends by name, in memory that follows the number of leases, not how many there were."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        # May hold outdated ends of renewed or removed leases: they are skipped when they come up.
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._until)

    def set(self, name: str, until: float) -> None:
        """Let a lease end at `until`, earlier or later than before."""
        self._until[name] = until
        heapq.heappush(self._heap, (until, name))
        if len(self._heap) > 2 * len(self._until) + FEW:
            self._heap = [(until, name) for name, until in self._until.items()]
            heapq.heapify(self._heap)

    def remove(self, name: str) -> None:
        """Forget a lease, if it is known."""
        self._until.pop(name, None)

    def pop_ended(self, now: float) -> list[str]:
        """Forget and return the leases that ended at `now` or before."""
        ended = []
        while (until := self.next()) is not None and until <= now:
            _, name = heapq.heappop(self._heap)
            del self._until[name]
            ended.append(name)
        return ended

    def next(self) -> float | None:
        """Return when the next lease ends."""
        while self._heap:
            until, name = self._heap[0]
            if self._until.get(name) == until:
                return until
            heapq.heappop(self._heap)
        return None
