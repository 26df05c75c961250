"""A truth server in a process of its own, and how far measured figures are from what its clock says."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.bench.truth_server import Entry
from tercet.results.record import RequestRecord


@dataclass(frozen=True, slots=True)
class Server:
    """A running truth server."""

    url: str
    process: subprocess.Popen[str]

    def log(self) -> list[Entry]:
        """Return what it did since this was last asked."""
        with urllib.request.urlopen(f"{self.url}/log", timeout=30) as answer:
            return [Entry(**entry) for entry in json.loads(answer.read())]


@contextmanager
def truth_server(*flags: str) -> Iterator[Server]:
    """Run a truth server with these flags while entered."""
    command = [sys.executable, "-m", "benchmarks.bench.truth_server", *flags]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}", process)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@dataclass(frozen=True, slots=True)
class Errors:
    """What was measured minus what the server's clock says, in milliseconds, request by request."""

    ttft: list[float]
    tpot: list[float]


def errors(records: Iterable[RequestRecord], log: Iterable[Entry]) -> Errors:
    """Compare by session. Raises KeyError for a request that the server knows nothing of."""
    entries = {entry.session: entry for entry in log}
    found = Errors([], [])
    for record in records:
        entry = entries[record.conversation]
        assert record.tpot_ms is not None and entry.tokens == record.output_tokens
        found.ttft.append(record.ttft_ms - (entry.first_ns - entry.received_ns) / 1e6)
        found.tpot.append(record.tpot_ms - (entry.last_ns - entry.first_ns) / 1e6 / (entry.tokens - 1))
    return found
