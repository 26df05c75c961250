"""`tercet status`: what is running and how busy it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli.engine_options import first_key

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tercet.launch.state import RunState

TIMEOUT_S = 10.0


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
    from tercet.core.errors import UsageError
    from tercet.launch.state import default_run_root, running
    from tercet.report.terminal import console_for_output

    console = console_for_output()
    states = running(default_run_root())
    named = [state for state in states if state.name == url]
    if url is None and not as_json:
        console.print(_deployments(states) if states else "nothing is running here; start something: tercet serve")
    if url is None:
        if len(states) != 1:
            if as_json:
                raise UsageError(f"{len(states)} deployments are running: name one, or give a router's URL")
            return
        url = states[0].url
    elif named:
        url = named[0].url
    elif "://" not in url:
        raise UsageError(f"{url!r} is neither a router's URL (http://HOST:PORT) nor a running deployment's name")
    data = _fetch(url.rstrip("/"), first_key(api_key_file))
    if as_json:
        typer.echo(json.dumps(data, indent=1))
    else:
        _show(console, url, data)


def _fetch(url: str, api_key: str | None) -> dict[str, Any]:
    """Return the router's /status. Raises TercetError when it does not answer, or is no router."""
    import asyncio

    from tercet.core.errors import TercetError
    from tercet.http.client import Client, ClientError

    async def get() -> tuple[int, bytes]:
        client = Client()
        headers = [("Authorization", f"Bearer {api_key}")] if api_key else []
        try:
            response = await client.request("GET", f"{url}/status", headers=headers, first_byte_timeout_s=TIMEOUT_S)
            return response.status, await response.read()
        finally:
            await client.close()

    try:
        code, body = asyncio.run(get())
    except ClientError as error:
        raise TercetError(f"no router answers on {url}: {error}") from error
    if code == 401:
        raise TercetError(f"{url} wants an API key: give it with --api-key-file")
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if code != 200 or not isinstance(data, dict) or "workers" not in data:
        raise TercetError(f"{url}/status answered {code}, and not as a tercet router does: is it one?")
    return data


def _deployments(states: list[RunState]) -> Table:
    from rich.table import Table

    table = Table("deployment", "shape", "mode at start", "model", "phase", "url", "launcher", "logs")
    for state in states:
        pid = f"pid {state.pid}"
        table.add_row(state.name, state.shape, state.mode, state.model, state.phase, state.url, pid, state.log_dir)
    return table


def _show(console: Console, url: str, data: dict[str, Any]) -> None:
    from rich.table import Table

    ready = "ready" if data["ready"] else f"NOT READY: {data['reason']}"
    console.print(
        f"{url}: mode {data['mode']}, {ready}; balancer {data['balancer']}, {data['dialect']} workers, "
        f"{data['in_flight']} requests in flight, {data['conversations']} conversations, up {data['uptime_s']:.0f} s",
        markup=False,
    )
    table = Table("rank", "stages", "address", "models", "state")
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
                "ready" if rank["ready"] else f"not ready: {worker['problem'] or 'probing'}",
                *(f"{rank[number]:,}" for number in numbers),
            )
    console.print(table)
    for pair in data["pairs"]:
        if not pair["ready"]:
            console.print(f"{pair['pair']}: {pair['problem'] or 'no request has crossed yet'}", markup=False)
    if data["unmatched"]:
        console.print(data["unmatched"], markup=False)
    if data["counts"]:
        console.print(_counts(data["counts"]))


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
