from __future__ import annotations

import pytest

from tercet.core.errors import UsageError
from tercet.core.ids import join_rank
from tercet.core.stage import Mode
from tercet.core.topology import missing_stage, mode_from_name, parse_short_form


def test_short_forms() -> None:
    workers = parse_short_form("2E1P1D")
    assert [w.name for w in workers] == ["encode-0", "encode-1", "prefill-0", "decode-0"]
    assert [w.name for w in parse_short_form("2A")] == ["worker-0", "worker-1"]


@pytest.mark.parametrize("text", ["", "P", "0P1D", "1X", "1p1d", "1P-1D"])
def test_wrong_short_forms(text: str) -> None:
    with pytest.raises(UsageError):
        parse_short_form(text)


@pytest.mark.parametrize(
    ("mode", "form", "fits"),
    [
        (Mode.PD, "1P1D", True),
        (Mode.PPD, "1P1D", True),
        (Mode.PD, "2A", False),
        (Mode.REPLICATED, "2A", True),
        (Mode.AGGREGATED, "1P1D", False),
        (Mode.PD, "1P", False),
    ],
)
def test_modes_need_their_stages(mode: Mode, form: str, fits: bool) -> None:
    assert (missing_stage(mode, parse_short_form(form)) is None) == fits


def test_unknown_mode_lists_the_known() -> None:
    with pytest.raises(UsageError, match="ppd"):
        mode_from_name("auto")


def test_ranks() -> None:
    assert join_rank("http://h:1", 3) == "http://h:1@3"
    assert join_rank("http://h:1", None) == "http://h:1"
