"""`tercet logs`: a part's log."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tercet.launch.state import RunState

FOLLOW_S = 0.2


def logs(
    role: Annotated[
        str | None, typer.Argument(metavar="[ROLE]", help="prefill-0, decode-0, worker-0, router, launcher.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines; 0: all.", min=0)] = 100,
    name: Annotated[str | None, typer.Option(help="Which deployment; needed when several run, or none does.")] = None,
    log_dir: Annotated[Path | None, typer.Option(help="The folder that `tercet serve --log-dir` was given.")] = None,
) -> None:
    """Show the log of a worker or of the router; without ROLE, list the logs there are.

    Logs stay after a deployment's end; `--name` finds them. A restarted part appends; a new start keeps the old log as
    ROLE.log.1.

    \b
    Examples:
      tercet logs decode-0
      tercet logs router -f
      tercet logs prefill-0 --name 1p1d      of one that has ended
    """
    from tercet.core.errors import UsageError

    folder = log_dir or _folder(name)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: give --log-dir as `tercet serve --log-dir` was given it")
    found = sorted(path.stem for path in folder.glob("*.log"))
    if role is None:
        typer.echo(f"{folder}: {', '.join(found) or 'no logs'}")
        return
    if role not in found:
        raise UsageError(f"no log of {role!r} in {folder}; there are {', '.join(found) or 'none'}")
    _show(folder / f"{role}.log", lines, follow)


def _folder(name: str | None) -> Path:
    from tercet.core.errors import UsageError
    from tercet.launch.state import default_log_dir, default_run_root, find_running, running

    root = default_run_root()
    state: RunState | None = next((state for state in running(root) if state.name == name), None)
    if state is None and name is not None:
        # An ended deployment of this name left its logs where they go unasked.
        if not default_log_dir(name).is_dir():
            raise UsageError(f"no deployment {name!r} is running, and {default_log_dir(name)} does not exist")
        return default_log_dir(name)
    return Path((state or find_running(root, name)).log_dir)


def _show(path: Path, lines: int, follow: bool) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        # Of a log of gigabytes no more is kept than is shown.
        sys.stdout.writelines(deque(file, maxlen=lines) if lines else file)
        sys.stdout.flush()
        while follow:
            if piece := file.read():
                sys.stdout.write(piece)
                sys.stdout.flush()
                continue
            time.sleep(FOLLOW_S)
            if _begins_anew(path, file.fileno()):
                return _show(path, 0, follow)


def _begins_anew(path: Path, fd: int) -> bool:
    """True when a new start has put a new log in place of the one that is read, or somebody has emptied that."""
    import os

    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return there.st_ino != os.fstat(fd).st_ino or there.st_size < os.lseek(fd, 0, os.SEEK_CUR)
