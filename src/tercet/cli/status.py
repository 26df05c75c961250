"""`tercet status`: what is running and how busy it is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli.asking import RouterClient, router_url
from tercet.cli.engine_options import first_key

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tercet.launch.state import RunState


def status(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL|NAME]", help="A router's URL, or a deployment's name; needed when several run."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The router's API keys, if it wants one; the first is sent.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the router's answer as it is.")] = False,
) -> None:
    """Show a router's workers and ranks: stages, load, cached prefixes and pictures, open handoffs, and counts
    per mode.

    Without URL, the deployments of this user on this machine are listed first; if there is one, it is shown.

    \b
    Examples:
      tercet status
      tercet status http://127.0.0.1:8000
      tercet status 1p1d --json
    """
    from tercet.launch.state import default_run_root, running
    from tercet.report.terminal import console_for_output

    console = console_for_output()
    states = running(default_run_root())
    if url is None and not as_json:
        found = _deployments(states) if states else "nothing is running here; start something: tercet serve"
        console.print(found, markup=False)  # of a folder's name nothing is a style
        if len(states) != 1:
            return
    url = router_url(url, states)
    data = asyncio.run(_fetch(url, first_key(api_key_file)))
    if as_json:
        typer.echo(json.dumps(data, indent=1))
    else:
        _show(console, url, data)


async def _fetch(url: str, api_key: str | None) -> dict[str, Any]:
    async with RouterClient(url, api_key) as router:
        return await router.get("/status", "workers")


def _deployments(states: list[RunState]) -> Table:
    from rich.table import Table

    table = Table("deployment", "shape", "mode at start", "model", "phase", "url", "launcher", "logs")
    for state in states:
        pid = f"pid {state.pid}"
        table.add_row(state.name, state.shape, state.mode, state.model, state.phase, state.url, pid, state.log_dir)
    return table


def _show(console: Console, url: str, data: dict[str, Any]) -> None:
    from rich.table import Column, Table

    ready = "ready" if data["ready"] else f"NOT READY: {data['reason']}"
    console.print(
        f"{url}: mode {data['mode']}, {ready}; balancer {data['balancer']}, {data['dialect']} workers, "
        f"{data['in_flight']} requests in flight, {data['conversations']} conversations, up {data['uptime_s']:.0f} s",
        markup=False,
    )
    table = Table("rank", "stages", Column("address", no_wrap=True), "models", "state")
    for column in ("requests", "tokens", "routed", "prefix blocks", "pictures", "open handoffs"):
        table.add_column(column, justify="right")
    for worker in data["workers"]:
        for rank in worker["ranks"]:
            numbers = ("requests", "tokens", "routed", "prefix_blocks", "pictures", "unaccepted_handoffs")
            table.add_row(
                rank["name"],
                ", ".join(worker["stages"]),
                rank["address"],
                ", ".join(worker["models"]),
                "ready" if rank["ready"] else "not ready",
                *(f"{rank[number]:,}" for number in numbers),
            )
    console.print(table, markup=False)
    # Below the table: a reason is longer than a column, and of all ranks of a worker.
    for worker in data["workers"]:
        if names := [rank["name"] for rank in worker["ranks"] if not rank["ready"]]:
            console.print(f"{', '.join(names)}: {worker['problem'] or 'probing'}", markup=False)
    for pair in data["pairs"]:
        if not pair["ready"]:
            console.print(f"{pair['pair']}: {pair['problem'] or 'no request has crossed yet'}", markup=False)
    if data["unmatched"]:
        console.print(data["unmatched"], markup=False)
    if data["counts"]:
        console.print(_counts(data["counts"]), markup=False)


def _counts(counts: dict[str, Any]) -> Table:
    """Return the router's counts, a column for each mode that was used."""
    from rich.table import Table

    modes = [mode for mode, values in counts.items() if isinstance(values, dict)]
    table = Table("counts", *modes)
    for name in dict.fromkeys(name for mode in modes for name in counts[mode]):
        table.add_row(name, *(_words(counts[mode].get(name, "")) for mode in modes))
    return table


def _words(value: object) -> str:
    return ", ".join(f"{key}: {count}" for key, count in value.items()) if isinstance(value, dict) else str(value)
