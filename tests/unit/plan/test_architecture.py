from __future__ import annotations

import pytest

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.plan.architecture import ALWAYS, Architecture, architectures


def labels(gpus: int, *tps: int, turns: bool = False, pictures: bool = False, modes: tuple[Mode, ...] = ()) -> set[str]:
    return {each.label for each in architectures(gpus, tps or (1,), turns=turns, pictures=pictures, modes=modes)}


def test_every_way_to_share_out_the_gpus() -> None:
    hybrids = {"1P1D2A pd", "1P2D1A pd", "2P1D1A pd"}
    assert labels(4) == {"4A aggregated", "1P3D pd", "2P2D pd", "3P1D pd"} | hybrids
    assert labels(4, 1, 2, 4) - labels(4) == {"2A aggregated TP2", "1P1D pd TP2", "1A aggregated TP4"}


def test_conversations_can_stick_and_go_straight_to_d() -> None:
    assert labels(2, turns=True) == {"2A replicated", "1P1D pd", "1P1D ppd", "1P1D ppd always"}


def test_pictures_add_encoders() -> None:
    text = {"3A aggregated", "1P2D pd", "2P1D pd", "1P1D1A pd"}
    assert labels(3, pictures=True) == text | {"1E2A epd", "2E1A epd", "1E1P1D epd"}
    assert "1E1P1D eppd" in labels(3, pictures=True, turns=True)


@pytest.mark.parametrize("gpus", [1, 6, 8])
def test_all_gpus_are_used(gpus: int) -> None:
    found = architectures(gpus, (1, 2, 4), turns=True, pictures=True)
    assert {each.gpus for each in found} == {gpus}
    assert len(found) == len(set(found))


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UsageError, match="all of 3 GPUs"):
        architectures(3, (2,), turns=False, pictures=False)
    with pytest.raises(UsageError, match="in mode epd"):
        architectures(3, (1,), turns=False, pictures=False, modes=(Mode.EPD,))


def test_a_label_says_what_differs() -> None:
    assert Architecture(Mode.PPD, 2, prefill=1, decode=3, ppd_threshold=ALWAYS).label == "1P3D ppd always TP2"
    assert Architecture(Mode.PPD, 2, prefill=1, decode=3, ppd_threshold=512).label == "1P3D ppd TP2"
