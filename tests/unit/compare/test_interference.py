"""What a long prompt does to running answers: which gaps count."""

from __future__ import annotations

from tercet.bench.result import RequestResult
from tercet.compare.interference import Gaps, sort_gaps

MS = 1_000_000


def answered(sent_ms: int, *chunks_ms: int) -> RequestResult:
    return RequestResult("c", 1, 0, sent_ms * MS, chunks_ms[-1] * MS, chunk_ns=tuple(ms * MS for ms in chunks_ms))


def test_gaps_are_sorted_by_the_long_prompts_life() -> None:
    early = answered(0, 10, 20, 60, 70, 80, 90, 150, 240, 250)
    late = answered(0, 50, 60, 70, 80, 90, 95, 160, 230, 250)
    prompt = answered(85, 200)
    # Before 50 ms not every stream had begun; from 200 ms on the prompt is over.
    assert sort_gaps([early, late], prompt) == Gaps(
        quiet=(10.0, 10.0, 10.0, 10.0, 10.0), during=(10.0, 60.0, 90.0, 10.0, 5.0, 65.0, 70.0)
    )
