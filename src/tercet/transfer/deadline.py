"""A moment after which waiting is over."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tercet.core.errors import TransferError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the moment `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        """Seconds left; never negative."""
        return max(self.at - time.monotonic(), 0.0)

    def check(self, doing: str) -> float:
        """Return the seconds left. Raises TransferError naming what took too long when there are none."""
        remaining = self.at - time.monotonic()
        if remaining <= 0:
            raise TransferError(f"{doing}: deadline passed")
        return remaining
