"""`tercet engine install` and `tercet engine run`: the engines of others, each in an environment of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tercet.core.errors import UsageError

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


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
"""What comes after the engine's name is not looked at."""


@app.command("run", context_settings=PASS_ON)
def run_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ENGINE", help="vllm.")],
) -> None:
    """Run an engine's own command from the environment that `tercet engine install` made; all further words are its.

    \b
    Examples:
      tercet engine run vllm --help
      tercet engine run vllm bench serve --model FOLDER --served-model-name smollm2-135m --port 8000
    """
    from tercet.launch.engines.environment import engine_python
    from tercet.launch.engines.vllm import CLI, site_path
    from tercet.launch.process import OWN_MODULES

    if name != "vllm":
        raise UsageError(f"{name!r} has no command to run here: known is vllm")
    python = engine_python(name, None)
    env = {**os.environ, **OWN_MODULES, "PYTHONPATH": site_path(os.environ.get("PYTHONPATH", ""))}
    os.execve(python, [str(python), "-m", CLI, *context.args], env)
