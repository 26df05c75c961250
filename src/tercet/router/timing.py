"""Where a request's time went, as a Server-Timing header."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Timing:
    """Times of one request in perf_counter nanoseconds. `legs` holds (name, duration) of each leg up to its first
    byte."""

    received_ns: int
    legs: list[tuple[str, int]] = field(default_factory=list)
    worker: list[str] = field(default_factory=list)

    def leg(self, name: str, duration_ns: int, server_timing: str | None, prefix: str = "") -> None:
        """Note a leg, and what its worker says of its own time; `prefix` tells P's words from D's."""
        self.legs.append((name, duration_ns))
        if server_timing:
            self.worker += [prefix + part.strip() for part in server_timing.split(",")] if prefix else [server_timing]

    def own_ns(self, now_ns: int) -> int:
        """Return the time since the request's arrival that no leg accounts for: the router's own, waiting included."""
        return max(0, now_ns - self.received_ns - sum(duration for _, duration in self.legs))

    def header(self, now_ns: int) -> str:
        """Return the Server-Timing value; durations in milliseconds."""
        parts = [f"router;dur={self.own_ns(now_ns) / 1e6:.2f}"]
        parts += [f"{name};dur={duration / 1e6:.2f}" for name, duration in self.legs]
        return ", ".join(parts + self.worker)
