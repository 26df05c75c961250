"""Distributions in a fixed amount of memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tercet.results.summary import Spread

LOWEST_MS = 1e-3
WIDTH = 0.005
"""Buckets are half a percent wide: so near is every percentile."""
BUCKETS = 4800
"""Up to 27 million ms, over seven hours."""


@dataclass(slots=True)
class Histogram:
    """Milliseconds, counted in buckets of equal ratio; mean and maximum are exact."""

    count: int = 0
    total: float = 0.0
    max: float = 0.0
    _buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.count += times
        self.total += value * times
        self.max = max(self.max, value)
        place = int(math.log(value / LOWEST_MS) / WIDTH) if value > LOWEST_MS else 0
        self._buckets[min(place, BUCKETS - 1)] += times

    def percentile(self, q: float) -> float:
        """Return the value below which `q` percent lie, within half a percent."""
        wanted, seen = self.count * q / 100, 0
        for place, number in enumerate(self._buckets):
            seen += number
            if number and seen >= wanted:
                return min(LOWEST_MS * math.exp((place + 0.5) * WIDTH), self.max)
        return self.max

    def spread(self) -> Spread | None:
        """Return mean, percentiles and maximum as results have them; None of nothing."""
        if not self.count:
            return None
        p50, p95, p99 = (self.percentile(q) for q in (50, 95, 99))
        return Spread(self.count, self.total / self.count, p50, p95, p99, self.max)
