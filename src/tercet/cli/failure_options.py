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
AnswerTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="For an answer that is not streamed.  [default: 600]")
]
IdleTimeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Silence within an answer.  [default: 30]")]
MaxRetries = Annotated[
    int | None, typer.Option(metavar="N", help="Other workers tried, as long as nothing was answered.  [default: 2]")
]
BreakerFailures = Annotated[
    int | None,
    typer.Option(metavar="N", help="Failures in a row that take a worker or a pair out until a probe.  [default: 5]"),
]
