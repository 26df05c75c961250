"""Spans: in which phase of a request, and at which worker, time went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tercet.core.stage import Stage
from tercet.http.server_timing import durations

QUEUE, ENCODE, PREFILL, HANDOFF, FIRST_TOKEN, STREAM = (
    "queue",
    "encode",
    "prefill",
    "handoff",
    "decode_first_token",
    "stream",
)
PHASES = (QUEUE, ENCODE, PREFILL, HANDOFF, FIRST_TOKEN, STREAM)
"""In the order in which a request meets them."""

PHASE_OF = {Stage.ENCODE: ENCODE, Stage.PREFILL: PREFILL, Stage.DECODE: FIRST_TOKEN}
"""What a leg's time is that its worker doesn't tell apart."""


class Span(NamedTuple):
    """One phase of one request, in perf_counter nanoseconds. `worker` is the label of a rank (`P0`), None for the
    router itself; `error` says why the leg failed, if it did."""

    phase: str
    worker: str | None
    start_ns: int
    end_ns: int
    error: str | None = None


def divide(
    phase: str, worker: str, start_ns: int, end_ns: int, server_timing: str | None, *, whole_prompt: bool = True
) -> list[Span]:
    """Divide a prefill or decode leg by its worker's own words, which are durations in the order of the phases; the
    rest, and all of it where the worker said nothing, is `phase`. Without `whole_prompt` what D calls its prefill is
    the step that gives the first token of a prompt that came from P."""
    spans: list[Span] = []
    at = start_ns
    for name, milliseconds in _words(phase, server_timing, whole_prompt) if server_timing else ():
        if milliseconds > 0 and at < end_ns:
            until = min(end_ns, at + int(milliseconds * 1e6))
            spans.append(Span(name, worker, at, until))
            at = until
    spans.append(Span(phase, worker, at, end_ns))
    return spans


def _words(phase: str, server_timing: str, whole_prompt: bool) -> Iterator[tuple[str, float]]:
    said = durations(server_timing)
    if "image-" in server_timing:
        yield ENCODE, sum(ms for name, ms in said.items() if name.startswith("image-"))
    yield QUEUE, said.get("queue", 0.0)
    yield HANDOFF, said.get("transfer", 0.0)
    if whole_prompt and phase != PREFILL:
        yield PREFILL, said.get("prefill", 0.0)
