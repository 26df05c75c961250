"""A running load on the terminal: how far it is, and its current rates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tercet.bench.tally import Tally

REFRESH_S = 1.0
"""Seldom enough that drawing disturbs no measurement."""

PLAIN_EVERY_S = 10.0
"""Without a terminal, a running load speaks up this often."""


class LoadView:
    """Shows a load's progress: one line that changes on a terminal, a line now and then anywhere else."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = monotonic) -> None:
        self._console = console
        self._clock = clock

    def say(self, text: str) -> None:
        """Tell one line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def running(self, text: str, total: int | None, tally: Tally) -> Iterator[None]:
        """Show `tally`'s progress towards `total` requests (None: unknown) while entered, then how it ended."""
        meter = Meter(text, total, tally, self._clock)
        live = None
        if self._console.is_terminal:
            live = Live(Text(text), console=self._console, auto_refresh=False, transient=True)
            live.start(refresh=True)
        drawing = asyncio.get_running_loop().create_task(self._draw(meter, live))
        try:
            yield
        finally:
            drawing.cancel()
            if live is not None:
                live.stop()
            self.say(meter.final())

    async def _draw(self, meter: Meter, live: Live | None) -> None:
        while True:
            await asyncio.sleep(PLAIN_EVERY_S if live is None else REFRESH_S)
            if live is None:
                self.say(meter.line())
            else:
                live.update(Text(meter.line(), no_wrap=True, overflow="ellipsis"), refresh=True)


class Meter:
    """Turns a tally into a line, with rates since the line before."""

    def __init__(self, text: str, total: int | None, tally: Tally, clock: Callable[[], float]) -> None:
        self._text = text
        self._total = total
        self._tally = tally
        self._clock = clock
        self._started = self._before = clock()
        self._done = self._chunks = 0

    def line(self) -> str:
        """Return how far it is and what was done a second since the line before."""
        now, tally = self._clock(), self._tally
        seconds = max(1e-9, now - self._before)
        requests, pieces = (tally.done - self._done) / seconds, (tally.chunks - self._chunks) / seconds
        rates = f"{requests:.1f} requests/s, {pieces:.0f} pieces/s"
        self._before, self._done, self._chunks = now, tally.done, tally.chunks
        return f"{self._head()}, {tally.under_way} under way{self._failed()}; now {rates}"

    def final(self) -> str:
        """Return what there was in the end."""
        return f"{self._head()}{self._failed()} in {self._clock() - self._started:.1f} s"

    def _head(self) -> str:
        return f"{self._text}: {self._tally.done}{'' if self._total is None else f'/{self._total}'} requests"

    def _failed(self) -> str:
        return f", {self._tally.failed} failed" if self._tally.failed else ""
