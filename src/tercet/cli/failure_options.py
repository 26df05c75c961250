"""The flags of deadlines, retries and breakers, shared by `tercet serve` and `tercet router`.

None is the default's stand-in, so that only flags really given win over the topology file.
"""

from __future__ import annotations

from typing import Annotated

import typer

ConnectTimeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="To reach a worker.  [default: 2]")]
FirstByteTimeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="For a prefill, and for the first byte of a stream.  [default: 60]"),
]
EncodeTimeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="For an encode leg; then another encode worker is asked.  [default: 60]"),
]
AnswerTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="For an answer that is not streamed.  [default: 600]")
]
IdleTimeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Silence within an answer.  [default: 30]")]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        "--workers",
        metavar="N",
        help="Router processes on one port, that share what they know of the fleet.  [default: 1]",
    ),
]
RouterProcesses = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        help="Router processes on one port, that share what they know of the fleet.  [default: 1]",
    ),
]
MaxRetries = Annotated[
    int | None, typer.Option(metavar="N", help="Other workers tried, as long as nothing was answered.  [default: 2]")
]
MaxConcurrent = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Requests under way per rank that answers; more wait.  [default: serve: 2 x --max-num-seqs; router: 1024]",
    ),
]
MaxQueue = Annotated[
    int | None, typer.Option(metavar="N", help="Requests that may wait; more get a 429.  [default: 1024]")
]
QueueTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="How long a request may wait.  [default: 30]")
]
PriorityHeader = Annotated[
    bool, typer.Option("--priority-header", help="Clients without a key may ask for more: X-Tercet-Priority, 1 to 9.")
]
BreakerFailures = Annotated[
    int | None,
    typer.Option(metavar="N", help="Failures in a row that take a worker or a pair out until a probe.  [default: 5]"),
]
