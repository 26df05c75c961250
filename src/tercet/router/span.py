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
    said, at = _said(server_timing), start_ns
    for word, name in _WORDS:
        milliseconds = said.get(word)
        if milliseconds and at < end_ns and (name is not PREFILL or (whole_prompt and phase != PREFILL)):
            until = min(end_ns, at + int(milliseconds * 1e6))
            spans.append(Span(name, worker, at, until))
            at = until
    spans.append(Span(phase, worker, at, end_ns))
    return spans


def _said(server_timing: str) -> dict[str, float]:
    """Return the durations by name, and as `image` what has to do with pictures, in sum. Written as nearly all write
    it, it is read in half the time."""
    said: dict[str, float] = {}
    for part in server_timing.split(", "):
        name, _, number = part.partition(";dur=")
        plain = part.isascii() and name.replace("-", "").isalnum() and number.replace(".", "", 1).isdecimal()
        if not plain or name in said or not number[0].isdecimal():
            said = durations(server_timing)
            break
        said[name] = float(number)
    if "image-" in server_timing:
        said["image"] = sum(ms for name, ms in said.items() if name.startswith("image-"))
    return said
