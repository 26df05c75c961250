from __future__ import annotations

import pytest

from tercet.core.stage import Stage
from tercet.router.span import divide
from tercet.router.timing import Timing

MS = 1_000_000


@pytest.mark.parametrize(
    ("phase", "said", "whole", "spans"),
    [
        ("decode_first_token", None, True, [("decode_first_token", 0, 50)]),
        (
            "decode_first_token",
            "queue;dur=10, transfer;dur=0.00, prefill;dur=35",
            True,
            [("queue", 0, 10), ("prefill", 10, 45), ("decode_first_token", 45, 50)],
        ),
        (
            "decode_first_token",
            "queue;dur=10, transfer;dur=20, prefill;dur=5",
            False,
            [("queue", 0, 10), ("handoff", 10, 30), ("decode_first_token", 30, 50)],
        ),
        ("prefill", "queue;dur=10, transfer;dur=0, prefill;dur=30", True, [("queue", 0, 10), ("prefill", 10, 50)]),
        (
            "prefill",
            "image-fetch;dur=1, image-encode;dur=4, queue;dur=10",
            True,
            [("encode", 0, 5), ("queue", 5, 15), ("prefill", 15, 50)],
        ),
        # A worker's words never reach beyond the leg.
        ("stream", "queue;dur=90, prefill;dur=90", True, [("queue", 0, 50), ("stream", 50, 50)]),
    ],
)
def test_a_leg_is_divided_by_its_workers_words(
    phase: str, said: str | None, whole: bool, spans: list[tuple[str, int, int]]
) -> None:
    found = divide(phase, "D0", 7, 7 + 50 * MS, said, whole_prompt=whole)
    assert [(s.phase, (s.start_ns - 7) / MS, (s.end_ns - 7) / MS) for s in found] == spans
    assert {s.worker for s in found} == {"D0"}


def test_a_decode_leg_beside_a_prefill_leg_begins_where_that_ended() -> None:
    timing = Timing(0)
    timing.prefill("P0", 0, 30 * MS, None)
    timing.decode("D0", 0, 40 * MS, None, phase="decode_first_token", handed_over=True)
    assert [(s.worker, s.start_ns // MS, s.end_ns // MS) for s in timing.spans] == [("P0", 0, 30), ("D0", 30, 40)]


def test_a_failed_leg_is_marked_or_noted() -> None:
    timing = Timing(0)
    timing.prefill("P0", 5, 10, None)
    timing.failed(Stage.PREFILL, "P0", 5, 11, "engine_dead")  # it answered
    timing.failed(Stage.DECODE, "D0", 11, 20, "worker_unreachable")  # it didn't
    timing.clear()
    assert [(s.phase, s.worker, s.error) for s in timing.spans] == [
        ("prefill", "P0", "engine_dead"),
        ("decode_first_token", "D0", "worker_unreachable"),
    ]
