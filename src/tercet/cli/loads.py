"""Which loads the commands that send traffic were asked for."""

from __future__ import annotations

from pathlib import Path

from tercet.cli import traffic_options as flags
from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.scripts import Dataset, read_dataset
from tercet.traffic.spec import LoadKind

DEFAULT_QPS = "1"
DEFAULT_REQUESTS = 64


def dataset_from(path: Path | None, turns: int) -> tuple[Dataset | None, int]:
    """Return what a file holds, cut to `turns` turns, and how many its conversations have. Raises UsageError.

    A load's requests are shared out by turns: those that no conversation has would be requests that nobody sends.
    """
    if path is None:
        return None, turns
    data = read_dataset(path, turns=turns)
    return data, min(turns, data.most_turns)


def loads_from(
    qps: str, concurrency: str, arrivals: str, data: Dataset | None, pictures: bool, speed: float
) -> tuple[LoadKind, tuple[float, ...], Arrivals]:
    """Return what the loads count, the loads, and how an open loop's conversations arrive. Raises UsageError."""
    if qps and concurrency:
        raise UsageError("--qps and --concurrency are two kinds of load: give one of them")
    pattern = flags.arrival_pattern(arrivals) if arrivals else Arrivals.POISSON
    if concurrency or (pictures and not qps):
        if arrivals:
            raise UsageError("--arrivals has no meaning with --concurrency: a conversation starts when another ends")
        return LoadKind.CONCURRENCY, flags.parse_counts(concurrency or flags.IMAGE_LOADS, "--concurrency"), pattern
    if data is not None and data.timed and not qps and (pattern is Arrivals.TRACE or not arrivals):
        if not 0 < speed < float("inf"):
            raise UsageError(f"--trace-speed {speed} is out of range: give a number above 0, where 1 is real time")
        return LoadKind.QPS, (data.rate(speed),), Arrivals.TRACE
    if pattern is Arrivals.TRACE and qps:
        raise UsageError("--arrivals trace takes its rate from the data set: leave --qps out, and use --trace-speed")
    return LoadKind.QPS, flags.parse_rates(qps or DEFAULT_QPS), pattern


def requests_from(given: int | None, duration: float | None, usual: int | None, data: Dataset | None) -> int:
    """Return how many requests a load sends; 0 is as many as fit a duration. Raises UsageError."""
    if given is not None:
        if given < 1:
            raise UsageError(f"--num-requests {given} is out of range: send at least one request")
        return given
    if duration is not None:
        return 0
    if data is not None and data.kind == "trace":
        return len(data.scripts)
    return usual or DEFAULT_REQUESTS


def percentiles_from(text: str) -> tuple[float, ...]:
    """Read `95,99.9`. Raises UsageError."""
    found = flags.parse_rates(text, "--percentiles")
    if any(not 0 <= q <= 100 for q in found):
        raise UsageError(f"--percentiles {text!r}: they lie between 0 and 100")
    return found
