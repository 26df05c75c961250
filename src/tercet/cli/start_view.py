"""What `tercet serve` shows while parts start: a live list on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tercet.launch.progress import Progress

FETCH_STEP = 0.1
"""Without a terminal, a model's download speaks up at every tenth."""


class StartView(Protocol):
    """Shows a model being fetched and parts starting."""

    def model(self, what: str, fraction: float) -> None:
        """Show how far the model is."""
        ...

    def part(self, progress: Progress) -> None:
        """Show a part's new state."""
        ...

    def close(self) -> None:
        """End what is live; parts may still be shown, as lines."""
        ...

    def __enter__(self) -> StartView:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is live."""
        ...


def start_view(console: Console) -> StartView:
    """Return the view that fits where the console writes to."""
    return LiveView(console) if console.is_terminal else LineView(console)


class LineView:
    """One line for each state."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: tuple[str, float] = ("", 0.0)

    def model(self, what: str, fraction: float) -> None:
        """Tell at the start, at every tenth, and at the end."""
        before, told = self._told
        if what != before or fraction >= min(told + FETCH_STEP, 1.0) > told:
            self._told = (what, fraction)
            self._say(f"model: {what} {fraction:.0%}")

    def part(self, progress: Progress) -> None:
        """Tell the state."""
        if (progress.part, progress.state) != ("deployment", "ready"):  # that is said at length, by others
            self._say(line_of(progress))

    def close(self) -> None:
        """Nothing is live."""

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> LineView:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""


class LiveView(LineView):
    """A spinner for each part until it is ready."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def model(self, what: str, fraction: float) -> None:
        """Move the model's bar."""
        self._bars.update(self._task("model"), description=f"model: {what} {fraction:.0%}", completed=fraction)

    def part(self, progress: Progress) -> None:
        """Spin while a part starts; everything else is a line."""
        if progress.state == "starting" and not self._bars.live.is_started:
            return  # a restart, after the live view's end: its "crashed" line is above, its "ready" line follows
        if progress.state == "starting":
            self._task(progress.part)
        elif progress.state == "ready" and progress.part in self._tasks and self._bars.live.is_started:
            task = self._tasks[progress.part]
            self._bars.update(task, description=f"{progress.part} ready", total=1.0, completed=1.0)
        else:
            super().part(progress)

    def _task(self, name: str) -> TaskID:
        if name not in self._tasks:
            total = 1.0 if name == "model" else None
            self._tasks[name] = self._bars.add_task(name if name == "model" else f"{name} starting", total=total)
        return self._tasks[name]

    def close(self) -> None:
        """Leave the list as it is on the screen."""
        self._bars.stop()

    def __enter__(self) -> LiveView:
        """Begin."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self.close()


def line_of(progress: Progress) -> str:
    """Return the state in one line."""
    name = "" if progress.part == "deployment" else f"{progress.part} "
    return f"{name}{progress.state}{f': {progress.detail}' if progress.detail else ''}"
