"""How many tokens: a number, or a range."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tercet.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Lengths:
    """From `low` to `high` tokens, each equally often."""

    low: int
    high: int

    def __post_init__(self) -> None:
        """Refuse an empty range. Raises UsageError."""
        if not 1 <= self.low <= self.high <= 10_000_000:
            raise UsageError(f"{self.low}-{self.high} is no range of lengths: write for instance 512, or 256-1024")

    @property
    def mean(self) -> float:
        """The mean length."""
        return (self.low + self.high) / 2

    @property
    def fixed(self) -> bool:
        """True when all are equally long."""
        return self.low == self.high

    def scaled(self, scale: float) -> Lengths:
        """Return `scale` times the lengths, at least one token."""
        return Lengths(max(1, round(self.low * scale)), max(1, round(self.high * scale)))

    def draw(self, rng: random.Random) -> int:
        """Return one length."""
        return self.low if self.fixed else rng.randint(self.low, self.high)

    def __str__(self) -> str:
        """Write it as `parse_lengths` reads it."""
        return str(self.low) if self.fixed else f"{self.low}-{self.high}"


def parse_lengths(text: str, flag: str) -> Lengths:
    """Read `512` or `256-1024`. Raises UsageError naming `flag`."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})(?:-([1-9][0-9]{0,6}))?", text)
    if match is None or int(match[1]) > int(match[2] or match[1]):
        raise UsageError(f"{flag} {text!r} is no length: write tokens such as 512, or a range such as 256-1024")
    return Lengths(int(match[1]), int(match[2] or match[1]))
