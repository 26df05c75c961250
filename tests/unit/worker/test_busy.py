"""Time in steps, by stage."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from tercet.engine.sequence import Chunk, Sequence
from tercet.worker.busy import BusyTimes


def chunk(prompt_len: int, start: int, length: int) -> Chunk:
    return Chunk(cast(Sequence, SimpleNamespace(prompt_len=prompt_len)), start, length, True)


def test_a_step_counts_for_the_stage_whose_tokens_it_computed() -> None:
    busy = BusyTimes()
    busy.add([chunk(100, 0, 64)], 2.0)
    assert busy.seconds == {"encode": 0.0, "prefill": 2.0, "decode": 0.0}
    busy.add([chunk(100, 100, 1), chunk(50, 70, 1)], 1.0)
    assert busy.seconds == {"encode": 0.0, "prefill": 2.0, "decode": 1.0}


def test_a_step_that_does_both_is_shared_out_by_tokens() -> None:
    busy = BusyTimes()
    # A prompt's last 3 tokens; a sequence that computes its last prompt token and, after a preemption, an answer's.
    busy.add([chunk(100, 97, 3), chunk(10, 9, 4), chunk(5, 8, 1)], 8.0)
    assert busy.seconds == pytest.approx({"encode": 0.0, "prefill": 4.0, "decode": 4.0})
    busy.encoded(0.5)
    assert busy.seconds["encode"] == 0.5
