"""A worker as flags, files and operators name it: `http://10.0.0.7:8000#ranks=2,bootstrap=8998`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from tercet.core.digits import count_in
from tercet.core.errors import UsageError
from tercet.core.stage import ROLE_STAGES, Stage
from tercet.routing.events import WorkerAdded

_MOST = {"ranks": 4096, "bootstrap": 65535, "events": 65535, "events-here": 65535}
"""The router keeps a state for each rank: a number mistyped would fill the memory."""


@dataclass(frozen=True, slots=True)
class EventPort:
    """Where the KV events of a worker's first rank are, its rank i's i further: the worker's port, to which the router
    connects, or (`here`) one of this machine's loopback, at which it listens for the worker."""

    number: int
    here: bool = False


@dataclass(frozen=True, slots=True)
class Joining:
    """A worker that joins later. `fixed`: its number of ranks is certain."""

    event: WorkerAdded
    fixed: bool
    bootstrap: int | None
    events: EventPort | None


def joining(text: str, letter: str, data_parallel_size: int | None) -> Joining:
    """Read what was given for a worker that joins later. Raises UsageError."""
    named = read_worker(text)
    stages = ROLE_STAGES[letter] | ({Stage.ENCODE} if named.encodes else frozenset())
    fixed = named.ranks or data_parallel_size
    event = WorkerAdded(named.url, stages, fixed or 1)
    return Joining(event, fixed is not None, named.bootstrap, named.events)


@dataclass(frozen=True, slots=True)
class NamedWorker:
    """What was given for one worker."""

    url: str
    ranks: int | None
    bootstrap: int | None
    encodes: bool
    events: EventPort | None


def read_worker(text: str) -> NamedWorker:
    """Read what was given for a worker. Raises UsageError."""
    url, _, fragment = text.partition("#")
    url = url.rstrip("/")
    try:
        parts = urlsplit(url)
    except ValueError:  # [ without ]
        raise UsageError(f"{text!r} is no worker's URL: write http://HOST:PORT") from None
    # What a request line or a Host header can't hold would fail with each request.
    plain = url.isascii() and url.isprintable() and " " not in url and "?" not in url
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError(f"{text!r} is no worker's URL: write http://HOST:PORT")
    try:
        _ = parts.port
    except ValueError:
        raise UsageError(f"{text!r} has no valid port") from None
    said: dict[str, int] = {}
    for part in fragment.split(",") if fragment else ():
        key, _, value = part.partition("=")
        if part == "encode":
            said[key] = 1
        elif key not in _MOST or not (number := count_in(value)) or number > _MOST[key]:
            raise UsageError(
                f"{text!r}: write URL#ranks=N for a worker of N ranks, at most 4,096, URL#bootstrap=PORT for its port, "
                "URL#events=PORT for that of its KV events, URL#events-here=PORT where it brings them to, "
                "URL#encode for one that encodes too"
            )
        else:
            said[key] = number
    port = said.get("events-here", said.get("events"))
    events = None if port is None else EventPort(port, here="events-here" in said)
    return NamedWorker(url, said.get("ranks"), said.get("bootstrap"), "encode" in said, events)
