"""The pause before another worker is asked: so that what fails for many at once is not asked again by all at once."""

from __future__ import annotations

from random import Random

FIRST_S = 0.02
MAX_S = 0.5


class RetryPauses:
    """Draws pauses: any time up to a bound that doubles with each failure (full jitter)."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def after(self, failures: int) -> float:
        """Return how long to wait after so many failures of one request, in seconds."""
        return self._random.random() * min(MAX_S, FIRST_S * 2.0 ** (failures - 1))
