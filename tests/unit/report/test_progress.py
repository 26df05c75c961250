"""Progress on terminals and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tercet.report.progress import BarNarrator, PlainNarrator, narrator


def test_plain_lines_tell_the_end_and_signs_of_life() -> None:
    out = io.StringIO()
    times = iter([0.0, 3.0, 12.0, 14.0, 15.0, 16.0])
    teller = PlainNarrator(Console(file=out), clock=lambda: next(times))
    teller.say("starting 1P1D")
    with teller.task("pd", 4) as advance:
        for _ in range(4):
            advance()
    assert out.getvalue().splitlines() == ["starting 1P1D", "pd: 2/4", "pd: 4/4 in 16.0 s"]


def test_an_interrupted_task_says_how_far_it_came() -> None:
    out = io.StringIO()
    times = iter([0.0, 1.0, 2.0])
    with (
        pytest.raises(KeyboardInterrupt),
        PlainNarrator(Console(file=out), clock=lambda: next(times)).task("pd", 4) as advance,
    ):
        advance()
        raise KeyboardInterrupt
    assert out.getvalue() == "pd: 1/4 in 2.0 s\n"


def test_a_terminal_gets_bars() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    teller = narrator(console)
    assert isinstance(teller, BarNarrator)
    with teller.task("pd", 2) as advance:
        advance()
        advance()
    assert "2/2" in out.getvalue()
    assert isinstance(narrator(Console(file=io.StringIO())), PlainNarrator)
