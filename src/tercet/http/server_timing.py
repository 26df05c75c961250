"""Reading what a server says of its own time."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([A-Za-z0-9_.@-]+)\s*;\s*dur=([0-9]+(?:\.[0-9]+)?)")


def durations(text: str) -> dict[str, float]:
    """Return the durations of a `Server-Timing` value, in milliseconds by name; those of one name are added up."""
    found: dict[str, float] = {}
    for name, value in _DURATION.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    return found
