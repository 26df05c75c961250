"""What the commands that measure have in common: running until done or interrupted, and publishing results."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tercet.core.errors import TercetError
from tercet.results.document import Results

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

SECRET_FLAGS = ("--api-key", "--header")
"""Flags whose values results files don't keep."""

Show = Callable[[Results, Console], None]
"""Prints results."""

Also = Callable[[Results, Path], Sequence[Path]]
"""Writes more beside a results file, and says what."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a measurement ended. `error` is what stopped it early, None for a whole or an interrupted one."""

    interrupted: bool = False
    error: TercetError | None = None

    @property
    def stopped_by(self) -> str:
        """Return what stopped it early, for the results; empty for a whole measurement."""
        if self.error is not None:
            return f"an error ({str(self.error).splitlines()[0]})"
        return "an interrupt" if self.interrupted else ""


def command_line() -> tuple[str, ...]:
    """Return the command that runs, as it goes into results files: without its secrets."""
    shown: list[str] = ["tercet"]
    for word in sys.argv[1:]:
        flag, equals, _ = word.partition("=")
        if equals and flag in SECRET_FLAGS:
            shown.append(f"{flag}=***")
        else:
            shown.append("***" if shown[-1] in SECRET_FLAGS else word)
    return tuple(shown)


def run_measured(work: Coroutine[None, None, None]) -> Outcome:
    """Run `work` to its end. Ctrl-C and SIGTERM cancel it, and it cleans up; a TercetError is returned, not raised.

    What was measured before either is not lost that way: the caller publishes it.
    """
    import uvloop

    async def cancellable() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So shells start what goes to the background; `kill -INT` should still work there.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(cancellable())
        except (KeyboardInterrupt, asyncio.CancelledError):
            return Outcome(interrupted=True)
        except TercetError as error:
            return Outcome(error=error)
    return Outcome()


def publish(results: Results, folder: Path, show: Show, also: Also) -> Path:
    """Write the results file and what goes beside it, print the figures on stdout, and say where the files are.

    In this order: whoever reads stdout may leave after a line (`| head`), and hours of measuring are not printed again.
    Figures that can't be written are printed all the same.
    """
    from tercet.report.terminal import console_for_output
    from tercet.results.file import write

    console = console_for_output()
    try:
        path = write(results, folder)
        beside = also(results, path)
    finally:
        show(results, console)
    console.print(f"Results: {path}", markup=False, soft_wrap=True)
    for other in beside:
        console.print(f"         {other}", markup=False, soft_wrap=True)
    return path


def tables(results: Results, console: Console) -> None:
    """Print the tables of a comparison and what follows from them."""
    from tercet.report.terminal import print_results

    print_results(results, console)


def nothing_else(results: Results, path: Path) -> Sequence[Path]:
    """Write nothing beside the results file."""
    return ()


def finish(
    outcome: Outcome,
    results: Results | None,
    folder: Path,
    *,
    show: Show = tables,
    also: Also = nothing_else,
) -> int:
    """Publish what there is, say how it ended, and return the exit code. Raises what stopped the measurement.

    0: measured, and the answers are right; 1: they are not, or nothing was answered; 130: interrupted.
    """
    if results is not None:
        publish(results, folder, show, also)
    if outcome.error is not None:
        raise outcome.error
    if outcome.interrupted:
        kept = "what was measured is above and in the file" if results is not None else "nothing was measured yet"
        print(f"Interrupted: everything is stopped; {kept}.", file=sys.stderr)
        return INTERRUPTED
    if results is None or not any(run.finished for run in results.runs):
        print("No request was answered.", file=sys.stderr)
        return 1
    return 0 if results.answers is None or results.answers.passed else 1
