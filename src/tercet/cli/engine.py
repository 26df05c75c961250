"""`tercet engine install` and `tercet engine list`: the engines of others, each in an environment of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
"""The sub-commands of `tercet engine`."""

CacheDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where it is kept. Default: $TERCET_CACHE, else ~/.cache/tercet.")
]


@app.callback()
def engine() -> None:
    """Install the engines of others, apart from Tercet's own environment: their pins rarely agree with it."""


@app.command("install")
def install_command(
    name: Annotated[str, typer.Argument(metavar="ENGINE", help="vllm.")], cache_dir: CacheDir = None
) -> None:
    """Make an environment with an engine, in Tercet's cache folder, and print its Python.

    vllm is the CPU build (4 GB, a few minutes) on a machine without an NVIDIA GPU, else the usual one. pip does it, so
    its configuration applies. Where it is there already nothing happens; to be rid of it delete the folder.

    \b
    Examples:
      tercet engine install vllm
      tercet serve 1P1D --engine vllm
    """
    from rich.console import Console

    from tercet.launch.engines.environment import install

    with Console(stderr=True).status(f"installing {name}") as status:
        python = install(name, cache_dir, lambda line: status.update(f"{name}: {line[:90]}"))
    typer.echo(python)
