"""Where a request's time went, as a Server-Timing header."""

from __future__ import annotations

from dataclasses import dataclass, field

WAITED_NS = 1_000_000
"""Less is no wait, and not worth a word."""


@dataclass(slots=True)
class Timing:
    """Times of one request in perf_counter nanoseconds. `legs` holds (name, duration) of each leg up to its first
    byte; encode legs run side by side and count as one, `encoding` is its begin and end. `waited_ns` is how
    long it waited for room."""

    received_ns: int
    legs: list[tuple[str, int]] = field(default_factory=list)
    worker: list[str] = field(default_factory=list)
    encoding: tuple[int, int] | None = None
    encoder: list[str] = field(default_factory=list)
    waited_ns: int = 0

    def clear(self) -> None:
        """Forget the legs of a route that was given up."""
        self.legs.clear()
        self.worker.clear()
        self.encoding = None
        self.encoder.clear()

    def encode(self, started_ns: int, ended_ns: int, server_timing: str | None) -> None:
        """Note an encode leg. Of several the worker's own words are kept that was the last to answer."""
        first, last = self.encoding or (started_ns, ended_ns)
        self.encoding = (min(first, started_ns), max(last, ended_ns))
        self.encoder = _prefixed("e-", server_timing)

    def leg(self, name: str, duration_ns: int, server_timing: str | None, prefix: str = "") -> None:
        """Note a leg, and what its worker says of its own time; `prefix` tells P's words from D's."""
        self.legs.append((name, duration_ns))
        self.worker += _prefixed(prefix, server_timing)

    def own_ns(self, now_ns: int) -> int:
        """Return the time since the request's arrival that no leg accounts for: the router's own."""
        return max(0, now_ns - self.received_ns - self.waited_ns - sum(duration for _, duration in self._all()))

    def header(self, now_ns: int) -> str:
        """Return the Server-Timing value; durations in milliseconds."""
        parts = [f"router;dur={self.own_ns(now_ns) / 1e6:.2f}"]
        if self.waited_ns >= WAITED_NS:
            parts.append(f"admission;dur={self.waited_ns / 1e6:.2f}")
        parts += [f"{name};dur={duration / 1e6:.2f}" for name, duration in self._all()]
        return ", ".join(parts + self.encoder + self.worker)

    def _all(self) -> list[tuple[str, int]]:
        if self.encoding is None:
            return self.legs
        return [("encode-leg", self.encoding[1] - self.encoding[0]), *self.legs]


def _prefixed(prefix: str, server_timing: str | None) -> list[str]:
    if not server_timing:
        return []
    return [prefix + part.strip() for part in server_timing.split(",")] if prefix else [server_timing]
