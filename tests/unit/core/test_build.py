"""What P and D must have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tercet.core.build import EngineBuild, misfit

BUILD = EngineBuild("tercet", "0.1.0", "m", "bf16", 16, "layout", 1, 2, ("shm", "tcp"), "f")


def test_it_survives_its_journey_as_json() -> None:
    assert EngineBuild.from_dict(BUILD.to_dict()) == BUILD


@pytest.mark.parametrize("data", [None, [], {}, {"engine": "tercet"}, {**BUILD.to_dict(), "transports": 3}])
def test_what_says_too_little_says_nothing(data: object) -> None:
    assert EngineBuild.from_dict(data) is None
    assert misfit(BUILD, None) is None and misfit(None, BUILD) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other"}, "model m on P, other on D"),
        ({"dtype": "fp32"}, "dtype bf16 on P, fp32 on D"),
        ({"block_size": 32}, "block size 16 on P, 32 on D"),
        ({"layout": "x"}, "KV layout layout on P, x on D"),
        ({"tensor_parallel": 2}, "tensor parallel size 1 on P, 2 on D"),
        ({"ticket_version": 1, "version": "0.0.9"}, "tickets 2 on P, 1 on D; tercet 0.1.0 on P, 0.0.9 on D"),
        ({"transports": ("nixl",)}, "no transport that both have: shm or tcp on P, nixl on D"),
        ({"fingerprint": "g"}, "weights that are not the same"),
        ({"engine": "virtual"}, "engine tercet on P, virtual on D"),
    ],
)
def test_each_difference_is_named(change: dict[str, Any], words: str) -> None:
    reason = misfit(BUILD, replace(BUILD, **change))
    assert reason is not None and words in reason


def test_another_version_alone_is_no_fault() -> None:
    assert misfit(BUILD, replace(BUILD, version="0.2.0", transports=("tcp",))) is None
