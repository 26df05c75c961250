"""`tercet stop`: ends a deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from tercet.core.errors import UsageError


def stop(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which one; needed when several run.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Stop every deployment of this user.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds until a launcher that does not react is killed.")
    ] = 30.0,
) -> None:
    """Stop a deployment and wait until nothing of it is left: router first, then the workers.

    \b
    Examples:
      tercet stop             the only one that runs
      tercet stop 1p1d        by name; `tercet status` lists them
      tercet stop --all
    """
    from tercet.launch.state import default_run_root, find_running, running
    from tercet.launch.stopping import stop_deployment

    if every and name is not None:
        raise UsageError(f"--all and {name!r} contradict each other: give one of them")
    root = default_run_root()
    states = running(root) if every else [find_running(root, name)]
    for state in states:
        gentle = stop_deployment(root, state, timeout)
        typer.echo(f"{state.name} stopped" if gentle else f"{state.name} did not react and was killed")
    if not states:
        typer.echo("nothing is running")
