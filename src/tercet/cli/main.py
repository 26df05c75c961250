"""The `tercet` command: finds the sub-command, loads its file alone, turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer

from tercet import __version__
from tercet.core.errors import TercetError
from tercet.core.open_files import allow_open_files

HELP = """Serve language and vision-language models as encode, prefill and decode stages, measure which split pays,
route each request the best way.

\b
Words:
  worker     one URL that computes; has stages: encode (E), prefill (P), decode (D), or prefill and decode (A)
  topology   workers together; 1P1D is one P and one D, 2A two workers that do both; or a YAML file
  mode       how requests cross a topology: aggregated, replicated, pd, ppd, epd, eppd
  rank       one engine process of a worker; device: what it computes on (cpu:0, cpu:0-3, cuda:0)

\b
Try:
  tercet serve 1P1D --detach      a real model, prefill on one core and decode on the other
  tercet status                   what is running and how busy it is
  tercet compare                  which mode wins on this machine
  tercet stop
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sub-command: its file, and the line `tercet --help` shows without loading that file."""

    name: str
    module: str
    summary: str


ENTRIES = (
    Entry("serve", "serve", "Start a topology: workers and the router in front of them."),
    Entry("status", "status", "Show what is running: workers, ranks, load, cache, counts per mode."),
    Entry("top", "top", "Watch a router at work: ranks, latency by phase, the latest requests."),
    Entry("doctor", "doctor", "Say whether a topology fits together and this machine, before traffic."),
    Entry("logs", "logs", "Show or follow the log of a worker or of the router."),
    Entry("stop", "stop", "Stop a deployment and wait until nothing of it is left."),
    Entry("deploy", "deploy", "Write the manifests that put a topology on Kubernetes."),
    Entry("compare", "compare", "Measure architectures against each other, and say which wins."),
    Entry("bench", "bench", "Send measured traffic to any OpenAI-compatible server."),
    Entry("plan", "plan", "Rank architectures for GPUs and a traffic, by goodput, before there is any."),
    Entry("simulate", "simulate", "Predict a topology under load, on GPUs that are not here."),
    Entry("calibrate", "calibrate", "Fit a stack's constants, or this machine, to measurements, for planning."),
    Entry("report", "report", "Turn results into one page: pictures, crossovers, a recommendation."),
    Entry("model", "model", "List the known models, or fetch one."),
    Entry("engine", "engine", "Install another engine (vllm) in an environment of its own."),
    Entry("worker", "worker", "Start one worker alone."),
    Entry("router", "router", "Start the router alone, in front of workers that run already."),
    Entry("keys", "keys", "Make, list and revoke the API keys of a router."),
    Entry("schema", "schema", "Print the JSON schema of topology files."),
)


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Return the app for these arguments: the sub-command they name is real, the others are there to be listed."""
    app = typer.Typer(
        name="tercet",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )
    app.callback()(_root)
    # While the shell completes a line, it is in the environment instead.
    words = os.environ["COMP_WORDS"].split() if "_TERCET_COMPLETE" in os.environ else arguments
    wanted = next((word for word in words if any(word == entry.name for entry in ENTRIES)), None)
    for entry in ENTRIES:
        module = f"tercet.cli.{entry.module}"
        if find_spec(module) is None:
            continue
        if entry.name != wanted:
            app.command(entry.name, help=entry.summary)(_listed)
            continue
        loaded = import_module(module)
        if isinstance(group := getattr(loaded, "app", None), typer.Typer):
            app.add_typer(group, name=entry.name)
        else:
            app.command(entry.name, cls=getattr(loaded, "Command", None))(getattr(loaded, entry.name))
    return app


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 it failed, 2 wrong use, 130 interrupted."""
    allow_open_files()
    try:
        build_app(sys.argv[1:])(prog_name="tercet")
    except TercetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _listed() -> None:
    """Stand for a sub-command that this command line does not name."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tercet {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Take the flags before the sub-command; `--version` ends in its callback."""


if __name__ == "__main__":
    main()
