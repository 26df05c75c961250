"""`tercet doctor`: does it fit?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli import engine_options as flags
from tercet.core.errors import UsageError

if TYPE_CHECKING:
    from tercet.launch.doctor import Finding

_MARKS = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "fault": ("FAULT", "red")}


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[TOPOLOGY.yaml|1P1D|URL]", help="What `tercet serve` would start, or a router's URL."),
    ] = None,
    prefill: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A running prefill worker; may be repeated.")
    ] = None,
    decode: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A running decode worker; may be repeated.")
    ] = None,
    dialect: Annotated[
        str, typer.Option(metavar="NAME", help="What the running workers speak: tercet, vllm.")
    ] = "tercet",
    engine: flags.ServedEngine = None,
    engine_python: flags.EnginePython = None,
    model: flags.Model = None,
    rank_match: flags.RankMatch = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys of the router or the workers; the first is sent.")
    ] = None,
    cache_dir: flags.CacheDir = None,
) -> None:
    """Say before traffic whether a topology fits together and this machine, and what to change where it does not.

    Of a file or a short form: engine, model, devices, ports, mode, ranks, transports, and whether each P and D agree on
    model, dtype, block size and KV layout. Of running workers (--prefill, --decode): the same, as they tell it
    themselves. Of a router's URL: what its probes found. Starts nothing. Ends with 1 when there is a fault.

    \b
    Examples:
      tercet doctor topology.yaml
      tercet doctor 1P1D --engine vllm
      tercet doctor http://127.0.0.1:8000
      tercet doctor --prefill http://10.0.0.1:8001 --decode http://10.0.0.2:8001 --dialect vllm
    """
    import asyncio

    from rich.table import Table
    from rich.text import Text

    from tercet.http.address import server_url
    from tercet.launch.doctor import examine
    from tercet.launch.doctor_live import examine_router, examine_workers
    from tercet.launch.source import topology_from, with_settings
    from tercet.report.terminal import console_for_output

    key = flags.first_key(api_key_file)
    running = bool(prefill or decode)
    if running == (target is not None):
        raise UsageError("name either a topology or a router's URL, or workers by --prefill and --decode")
    findings: list[Finding]
    if running:
        if not prefill or not decode:
            raise UsageError("a pair has two ends: give --prefill URL and --decode URL")
        ends = [[server_url(url) for url in urls] for urls in (prefill, decode)]
        findings = asyncio.run(examine_workers(ends[0], ends[1], dialect, key))
    elif target is not None and "://" in target:
        findings = asyncio.run(examine_router(server_url(target), key))
    else:
        python = None if engine_python is None else str(engine_python)
        given = {"engine": engine, "engine_python": python, "model": model, "rank_match": rank_match}
        findings = list(examine(with_settings(topology_from(target, None), given), cache_dir))
    table = Table("", "what", "finding", box=None)
    for finding in findings:
        table.add_row(Text(*_MARKS[finding.level]), finding.what, finding.said)
    console_for_output().print(table, markup=False)  # pip install 'tercet[engine]' is said as it is
    raise typer.Exit(any(finding.level == "fault" for finding in findings))
