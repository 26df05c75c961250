"""Where a request's time went: as a Server-Timing header, and as spans."""

from __future__ import annotations

from dataclasses import dataclass, field

from tercet.core.stage import Stage
from tercet.router.span import ENCODE, PHASE_OF, PREFILL, QUEUE, Span, divide

WAITED_NS = 1_000_000
"""Less is no wait, and not worth a word."""


@dataclass(slots=True)
class Timing:
    """Times of one request in perf_counter nanoseconds. `legs` holds (name, duration) of each leg up to its first
    byte; encode legs run side by side and count as one, `encoding` is its begin and end. `waited_ns` is how
    long it waited for room. `spans` keep the legs of routes that were given up, too."""

    received_ns: int
    legs: list[tuple[str, int]] = field(default_factory=list)
    worker: list[str] = field(default_factory=list)
    encoding: tuple[int, int] | None = None
    encoder: list[str] = field(default_factory=list)
    waited_ns: int = 0
    spans: list[Span] = field(default_factory=list)

    def clear(self) -> None:
        """Forget the legs of a route that was given up."""
        self.legs.clear()
        self.worker.clear()
        self.encoding = None
        self.encoder.clear()

    def waited(self, started_ns: int, ended_ns: int, worker: str | None = None) -> None:
        """Note a wait: for room in the fleet, or for a place at a `worker`."""
        if worker is None:
            self.waited_ns = ended_ns - started_ns
        if ended_ns - started_ns >= WAITED_NS:
            self.spans.append(Span(QUEUE, worker, started_ns, ended_ns))

    def encode(self, worker: str, started_ns: int, ended_ns: int, server_timing: str | None) -> None:
        """Note an encode leg. Of several the worker's own words are kept that was the last to answer."""
        first, last = self.encoding or (started_ns, ended_ns)
        self.encoding = (min(first, started_ns), max(last, ended_ns))
        self.encoder = _prefixed("e-", server_timing)
        self.spans.append(Span(ENCODE, worker, started_ns, ended_ns))

    def prefill(self, worker: str, started_ns: int, ended_ns: int, server_timing: str | None) -> None:
        """Note a prefill leg, and what P says of its own time."""
        self.legs.append(("prefill-leg", ended_ns - started_ns))
        self.worker += _prefixed("p-", server_timing)
        self.spans += divide(PREFILL, worker, started_ns, ended_ns, server_timing)

    def decode(
        self, worker: str, started_ns: int, ended_ns: int, server_timing: str | None, *, phase: str, handed_over: bool
    ) -> None:
        """Note a decode leg, up to its first byte or its whole answer, which is its rest's `phase`; what of P ran
        beside it isn't D's."""
        self.legs.append(("decode-leg", ended_ns - started_ns))
        self.worker += _prefixed("", server_timing)
        prefilled_ns = max((span.end_ns for span in self.spans if span.phase == PREFILL), default=0)
        begin_ns = prefilled_ns if handed_over and started_ns < prefilled_ns < ended_ns else started_ns
        self.spans += divide(phase, worker, begin_ns, ended_ns, server_timing, whole_prompt=not handed_over)

    def failed(self, stage: Stage, worker: str, started_ns: int, now_ns: int, why: str) -> None:
        """Note that a leg failed."""
        for i in range(len(self.spans) - 1, -1, -1):
            span = self.spans[i]
            if span.worker == worker and span.start_ns >= started_ns:
                self.spans[i] = span._replace(error=why)
                return
        self.spans.append(Span(PHASE_OF[stage], worker, started_ns, now_ns, why))

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
