"""What is happening, while it happens: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_EVERY_S = 10.0
"""Without a terminal, a running task speaks up this often."""

Advance = Callable[[], None]


class Narrator(Protocol):
    """Tells a person what is happening."""

    def say(self, text: str) -> None:
        """Tell one line."""
        ...

    def task(self, text: str, total: int) -> AbstractContextManager[Advance]:
        """Enter to show `total` steps; call what comes out once per finished step."""
        ...


class BarNarrator:
    """Live bars on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Tell one line."""
        self._console.print(text, markup=False)

    @contextmanager
    def task(self, text: str, total: int) -> Iterator[Advance]:
        """Show a bar of `total` steps; it stays, as a line, when the task is over."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as bar:
            task_id = bar.add_task(text, total=total)
            yield lambda: bar.advance(task_id)


class PlainNarrator:
    """Lines for files, pipes and CI: a task's end, and a sign of life in between."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = monotonic) -> None:
        self._console = console
        self._clock = clock

    def say(self, text: str) -> None:
        """Tell one line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, text: str, total: int) -> Iterator[Advance]:
        """Tell how far a task of `total` steps is every PLAIN_EVERY_S seconds at most, and how long it took."""
        started = told = self._clock()
        done = 0

        def advance() -> None:
            nonlocal done, told
            done += 1
            now = self._clock()
            if now - told >= PLAIN_EVERY_S and done < total:
                told = now
                self.say(f"{text}: {done}/{total}")

        try:
            yield advance
        finally:
            self.say(f"{text}: {done}/{total} in {self._clock() - started:.1f} s")


def narrator(console: Console) -> Narrator:
    """Return the narrator that fits the console."""
    return BarNarrator(console) if console.is_terminal else PlainNarrator(console)
