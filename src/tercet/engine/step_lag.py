"""How much later a virtual GPU's steps ended than its oracle says: what the machine under it adds."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS_S = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class StepLag:
    """Counts steps by how late they ended, in seconds; the last bucket has no bound."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one step."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total += seconds
