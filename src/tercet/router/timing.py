"""Where a request's time went: as a Server-Timing header, and as spans."""

from __future__ import annotations

from tercet.core.stage import Stage
from tercet.router.span import ENCODE, PHASE_OF, PREFILL, QUEUE, Span, divide

WAITED_NS = 1_000_000
"""Less is no wait, and not worth a word."""


class Timing:
    """Times of one request in perf_counter nanoseconds. `legs` holds (name, duration) of each leg up to its first
    byte; encode legs run side by side and count as one, `encoding` is its begin and end. `waited_ns` is how
    long it waited for room. `spans` keep the legs of routes that were given up, too."""

    __slots__ = ("encoder", "encoding", "legs", "received_ns", "spans", "waited_ns", "worker")

    def __init__(self, received_ns: int) -> None:
        self.received_ns, self.waited_ns = received_ns, 0
        self.legs: list[tuple[str, int]] = []
        self.worker: list[str] = []
        self.encoding: tuple[int, int] | None = None
        self.encoder: list[str] = []
        self.spans: list[Span] = []

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
        if server_timing:
            self.worker.append(server_timing)
        if handed_over:
            prefilled_ns = max((span.end_ns for span in self.spans if span.phase == PREFILL), default=0)
            if started_ns < prefilled_ns < ended_ns:
                started_ns = prefilled_ns
        self.spans += divide(phase, worker, started_ns, ended_ns, server_timing, whole_prompt=not handed_over)

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
        own = now_ns - self.received_ns - self.waited_ns
        if self.encoding is not None:
            own -= self.encoding[1] - self.encoding[0]
        for _, duration in self.legs:
            own -= duration
        return own if own > 0 else 0

    def header(self, own_ns: int) -> str:
        """Return the Server-Timing value, with the router's `own_ns`; durations in milliseconds."""
        text = f"router;dur={own_ns / 1e6:.2f}"
        if self.waited_ns >= WAITED_NS:
            text += f", admission;dur={self.waited_ns / 1e6:.2f}"
        if self.encoding is not None:
            text += f", encode-leg;dur={(self.encoding[1] - self.encoding[0]) / 1e6:.2f}"
        for name, duration in self.legs:
            text += f", {name};dur={duration / 1e6:.2f}"
        return ", ".join([text, *self.encoder, *self.worker]) if self.encoder or self.worker else text


def _prefixed(prefix: str, server_timing: str | None) -> list[str]:
    return [prefix + part.strip() for part in server_timing.split(",")] if server_timing else []
