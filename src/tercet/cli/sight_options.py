"""The flags of logs and traces, shared by `tercet serve` and `tercet router`."""

from __future__ import annotations

from typing import Annotated

import typer

LogFormat = Annotated[
    str | None, typer.Option(metavar="NAME", help="The router's log: text, or json, an object a line.  [default: text]")
]
LogRequests = Annotated[
    bool, typer.Option("--log-requests", help="Log a line for each request: what became of it, and its phases.")
]
OtlpEndpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Send traces to this OTLP collector, as http://HOST:4318; needs tercet[otel]."),
]
