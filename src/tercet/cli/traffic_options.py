"""The flags that describe traffic, shared by the commands that send it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import workload_from_name

Workload = Annotated[
    str,
    typer.Option(
        help="W1 (512 tokens in / 256 out), W2 (4096/128), W3 (256/1024), W4 (8192/64), or your own such as 2048/32; "
        "per turn, before --scale."
    ),
]
Qps = Annotated[
    str,
    typer.Option(
        metavar="RATE[,RATE...]",
        help="Requests (turns) a second; several rates are measured one after the other. Open loop: conversations "
        "arrive at RATE / turns, and no arrival waits for an answer.",
    ),
]
Turns = Annotated[
    int,
    typer.Option(help="Turns of a conversation. Each adds the workload's input tokens to all that was said before."),
]
NumRequests = Annotated[int, typer.Option(help="Requests (turns) per run and rate; rounded up to whole conversations.")]
Scale = Annotated[float, typer.Option(help="Multiply the workload's lengths: 0.125 makes W1 64/32, fit for a CPU.")]
Think = Annotated[float, typer.Option(help="Seconds between an answer and the conversation's next turn.")]
ArrivalPattern = Annotated[str, typer.Option("--arrivals", help="poisson or constant.")]
Seed = Annotated[int, typer.Option(help="Decides prompts and arrivals: the same seed sends the same conversations.")]
Output = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Folder for the results file; its name holds the time, nothing is overwritten."),
]


def traffic_spec(
    workload: str, scale: float, qps: float, num_requests: int, turns: int, think: float, arrivals: str, seed: int
) -> TrafficSpec:
    """Return the traffic that the flags describe. Raises UsageError naming the flag that can't be."""
    try:
        pattern = Arrivals(arrivals)
    except ValueError:
        raise UsageError(f"--arrivals {arrivals!r} is unknown: choose {' or '.join(Arrivals)}") from None
    return TrafficSpec(workload_from_name(workload).scaled(scale), qps, num_requests, turns, think, pattern, seed)


def parse_rates(text: str) -> tuple[float, ...]:
    """Read `0.5,1`. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--qps {text!r} is not a list of numbers: write for instance 0.5,1") from None
