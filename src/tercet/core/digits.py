"""Numbers that others write: in headers, flags and files."""

from __future__ import annotations

MOST_DIGITS = 18
"""All numbers of so many fit in 64 bits. Python itself refuses some thousands of digits, with an error of its own."""


def count_in(text: str | None) -> int | None:
    """Return the number that decimal digits say; None for what is none, or too long to be a count of anything."""
    return int(text) if text is not None and text.isdecimal() and len(text) <= MOST_DIGITS else None
