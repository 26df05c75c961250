from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.stage import Stage
from tercet.http.server_timing import durations
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


SAID = (
    *("queue;dur=1", "queue;dur=2.50", "prefill;dur=.5", "prefill;dur=3.", "transfer; dur=4", "image-a;dur=1"),
    *("image-b ;dur=2", "x;desc=queue;dur=7", "transfer;dur=\N{ARABIC-INDIC DIGIT THREE}", "queue;dur=", "queue"),
    *("", "prefill;dur=1e3", '"prefill;dur=8', "-queue;dur=1", "p.queue;dur=6"),
)


@given(
    st.lists(
        st.sampled_from(SAID),
        max_size=4,
    ),
    st.sampled_from([", ", ",", " , "]),
)
def test_whatever_a_worker_writes_is_read_as_it_says(parts: list[str], comma: str) -> None:
    text = comma.join(parts)
    found = divide("decode_first_token", "D0", 0, 10**12, text or None)
    said = durations(text)
    images = sum(ms for name, ms in said.items() if name.startswith("image-"))
    expected = {"encode": images, "queue": said.get("queue"), "handoff": said.get("transfer")}
    expected["prefill"] = said.get("prefill")
    assert {s.phase: (s.end_ns - s.start_ns) / MS for s in found[:-1]} == {k: v for k, v in expected.items() if v}
