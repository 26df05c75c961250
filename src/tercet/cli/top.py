"""`tercet top`: a fleet at work, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli.asking import RouterClient, router_url
from tercet.cli.engine_options import first_key

if TYPE_CHECKING:
    from rich.console import Console

    from tercet.cli.top_figures import Figures

FEW, MOST = 16, 256
ONCE_LINES = 40


def top(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL|NAME]", help="A router's URL, or a deployment's name; needed when several run."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print one picture and end; two looks, an interval apart.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the router's own answers, a line of JSON each look.")
    ] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks.")] = 1.0,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The router's API keys, if it wants one; the first is sent: an admin's."),
    ] = None,
) -> None:
    """Watch a router at work: ranks with load, KV use and health, latency by phase, and the latest requests with their
    way to the first token. The same as its page at /ui.

    Ctrl-C ends it. Without a terminal it prints one picture, as with --once. --json prints {"status": ..., "requests":
    [...]}, as GET /status and GET /requests answer; with --once one line.

    \b
    Examples:
      tercet top
      tercet top http://127.0.0.1:8000 --api-key-file ops.txt
      tercet top http://127.0.0.1:8000 --once --json | jq .status.in_flight
    """
    import asyncio
    from contextlib import suppress

    from tercet.launch.state import default_run_root, running
    from tercet.report.terminal import console_for_output

    client = RouterClient(router_url(url, running(default_run_root())), first_key(api_key_file))
    console = console_for_output()
    with suppress(KeyboardInterrupt):
        if as_json:
            asyncio.run(_print_json(client, None if once else interval))
        else:
            asyncio.run(_watch(client, console, interval, live=console.is_terminal and not once))


async def _look(client: RouterClient, limit: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    import asyncio

    status, latest = await asyncio.gather(
        client.get("/status", "workers"), client.get(f"/requests?limit={limit}", "requests")
    )
    return status, latest["requests"]


async def _first(client: RouterClient) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Look for the first time. Raises UsageError: it is the URL, or the key, that is wrong."""
    from tercet.core.errors import TercetError, UsageError

    try:
        return await _look(client, MOST)
    except TercetError as error:
        raise UsageError(str(error)) from error


async def _print_json(client: RouterClient, interval: float | None) -> None:
    import asyncio
    import json

    async with client:
        status, requests = await _first(client)
        while True:
            typer.echo(json.dumps({"status": status, "requests": requests}))
            if interval is None:
                return
            await asyncio.sleep(interval)
            status, requests = await _look(client, MOST)


async def _watch(client: RouterClient, console: Console, interval: float, *, live: bool) -> None:
    import asyncio

    from tercet.cli.top_figures import Figures
    from tercet.cli.top_view import frame

    figures = Figures()
    async with client:
        figures.take(*await _first(client))
        if live:
            await _live(client, console, interval, figures)
            return
        await asyncio.sleep(interval)
        figures.take(*await _look(client, MOST))
        console.print(frame(figures, client.url, width=console.width, height=ONCE_LINES))


async def _live(client: RouterClient, console: Console, interval: float, figures: Figures) -> None:
    import asyncio

    from rich.live import Live

    from tercet.cli.top_view import frame
    from tercet.core.errors import TercetError

    limit, problem = MOST, None
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            width, height = console.size
            picture = frame(figures, client.url, width=width, height=height, problem=problem)
            screen.update(picture, refresh=True)
            await asyncio.sleep(interval)
            try:
                status, requests = await _look(client, limit)
            except TercetError as error:
                problem = str(error)
                continue
            problem = None
            limit = min(MOST, max(FEW, 2 * figures.take(status, requests)))
