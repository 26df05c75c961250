"""Spans: in which phase of a request, and at which worker, time went."""

from __future__ import annotations

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

_WORDS = (("image", ENCODE), ("queue", QUEUE), ("transfer", HANDOFF), ("prefill", PREFILL))
"""What workers say, in the order in which it happens."""


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
    if not server_timing:
        return [Span(phase, worker, start_ns, end_ns)]
    spans: list[Span] = []
    said, at = durations(server_timing), start_ns
    if "image-" in server_timing:
        said["image"] = sum(ms for name, ms in said.items() if name.startswith("image-"))
    for word, name in _WORDS:
        milliseconds = said.get(word)
        if milliseconds and at < end_ns and (name is not PREFILL or (whole_prompt and phase != PREFILL)):
            until = min(end_ns, at + int(milliseconds * 1e6))
            spans.append(Span(name, worker, at, until))
            at = until
    spans.append(Span(phase, worker, at, end_ns))
    return spans
