"""How far a run is, counted as it goes: what a live display shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Requests sent, over, and failed; and pieces of content read (one is a token, as most servers stream)."""

    sent: int = 0
    done: int = 0
    failed: int = 0
    chunks: int = 0

    @property
    def under_way(self) -> int:
        """Requests sent and not over."""
        return max(0, self.sent - self.done)

    def add(self, other: Tally) -> None:
        """Count another's counts too."""
        self.sent += other.sent
        self.done += other.done
        self.failed += other.failed
        self.chunks += other.chunks
