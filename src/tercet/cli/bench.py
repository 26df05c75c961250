"""`tercet bench`: measured traffic against a server that is already running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tercet.cli import traffic_options as flags


def bench(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="An OpenAI-compatible server, such as http://127.0.0.1:8000.")
    ],
    workload: flags.Workload = "W1",
    qps: flags.Qps = "0.5",
    turns: flags.Turns = 1,
    num_requests: flags.NumRequests = 16,
    scale: flags.Scale = 0.125,
    seed: flags.Seed = 0,
    think: flags.Think = 0.0,
    arrivals: flags.ArrivalPattern = "poisson",
    model: Annotated[str, typer.Option(help="Model to ask for; by default the first that the server lists.")] = "",
    salt: Annotated[
        str,
        typer.Option(
            help="Sets the prompts apart from those of other runs, whose KV the server may still hold. Random "
            "by default; give one to repeat the same prompts."
        ),
    ] = "",
    output: flags.Output = Path("results"),
) -> None:
    """Measure a running server: TTFT, TPOT and E2E per turn, throughput and success.

    The same load generator, tables and results file as `tercet compare`, for any server that takes token-id prompts at
    /v1/completions and returns token ids (Tercet, vLLM). Nothing is started or stopped. Ctrl-C keeps what was measured.

    \b
    Examples:
      tercet bench http://127.0.0.1:8000
      tercet bench http://127.0.0.1:8000 --workload W1 --qps 1,2,4 --num-requests 64 --turns 3
      tercet bench http://127.0.0.1:8000 --workload 1024/16 --scale 1 --arrivals constant
    """
    from tercet.bench.drive import drive
    from tercet.cli.measuring import command_line, finish, run_measured
    from tercet.compare.single import Single
    from tercet.report.progress import narrator
    from tercet.report.terminal import console_for_output
    from tercet.results.file import require_writable

    rates = flags.parse_rates(qps)
    traffic = flags.traffic_spec(workload, scale, rates[0], num_requests, turns, think, arrivals, seed)
    require_writable(output)
    single = Single(
        url.rstrip("/").removesuffix("/v1"),
        traffic,
        rates,
        scale=scale,
        model=model,
        salt=salt,
        drive=drive,
        narrator=narrator(console_for_output(stderr=True)),
        command=command_line(),
    )
    outcome = run_measured(single.run())
    results = single.results(stopped_by=outcome.stopped_by) if single.runs else None
    if code := finish(outcome, results, output):
        raise typer.Exit(code)
