"""The record of one request: what became of it, and where its time went. Nothing of its content."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, Protocol

from tercet.core.route import Rank, Route
from tercet.router.span import Span

KEPT = 256
"""How many of the latest requests a router remembers."""
MODEL_CHARS = 128
"""A model's name comes from the client, and may be anything."""


class RequestRecord(NamedTuple):
    """One request for generation that is over. `started_at` is Unix time in seconds, `received_ns` the same moment on
    the clock of `spans` (perf_counter).

    `status` is the client's HTTP status; 499: it left, 502: also for a stream that broke after its first byte.
    `turn` is "first" or "later". `prompt_tokens` and `cached_tokens` are the workers' own where they say, None where
    nobody knows; `expected_cached_tokens` is what the route was chosen by; `output_tokens` are counted by events, and
    `estimated`, where the answer came without usage. `error` is a code, never a message: that may quote a prompt.
    `key` is the name of the API key.
    """

    id: str
    started_at: float
    received_ns: int
    ended_ns: int
    mode: str
    turn: str
    model: str
    stream: bool
    status: int
    finish_reason: str | None
    error: str | None
    key: str | None
    route: Route | None
    prompt_tokens: int | None
    cached_tokens: int | None
    expected_cached_tokens: int | None
    output_tokens: int | None
    estimated: bool
    retries: int
    spans: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        """From the request's arrival to its end."""
        return (self.ended_ns - self.received_ns) / 1e9

    def to_json(self, *, urls: bool = True) -> dict[str, object]:
        """Return what docs/observability.md describes; without `urls` for a client, who knows workers by label."""
        route = self.route
        data: dict[str, object] = {
            "id": self.id,
            "started_at": round(self.started_at, 6),
            "duration_ms": _ms(self.ended_ns - self.received_ns),
            "mode": self.mode,
            "turn": self.turn,
            "model": self.model,
            "stream": self.stream,
            "status": self.status,
            "finish_reason": self.finish_reason,
            "error": self.error,
            "route": None if route is None else str(route),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "expected_cached_tokens": self.expected_cached_tokens,
            "output_tokens": self.output_tokens,
            "output_tokens_estimated": self.estimated,
            "retries": self.retries,
            "spans": [self._span(span) for span in self.spans],
        }
        if urls:
            data["key"] = self.key
            data["workers"] = [] if route is None else [_rank(rank) for rank in route.ranks]
        return data

    def _span(self, span: Span) -> dict[str, object]:
        data: dict[str, object] = {
            "phase": span.phase,
            "worker": span.worker,
            "start_ms": _ms(span.start_ns - self.received_ns),
            "end_ms": _ms(span.end_ns - self.received_ns),
        }
        return data if span.error is None else data | {"error": span.error}


class ToldRecord(NamedTuple):
    """A request of another process."""

    id: str
    ended_ns: int
    data: dict[str, object]

    def record(self) -> ToldRecord:
        """Return itself."""
        return self

    def to_json(self, *, urls: bool = True) -> dict[str, object]:
        """Return what was told, with the workers' URLs."""
        return self.data


class Recorded(Protocol):
    """A request that is over, of which a record can be made."""

    @property
    def ended_ns(self) -> int:
        """When it ended, on the clock of spans."""
        ...

    def record(self) -> RequestRecord | ToldRecord:
        """Return it."""
        ...


class Recent:
    """The latest requests. A record is made for who asks: few do."""

    __slots__ = ("_ended", "add")

    def __init__(self, kept: int = KEPT) -> None:
        self._ended: deque[Recorded] = deque(maxlen=kept)
        self.add = self._ended.append
        """Remember a request; the oldest is forgotten for it."""

    def add_all(self, ended: Iterable[Recorded]) -> None:
        """Remember requests that ended in between those known."""
        known = sorted((*self._ended, *ended), key=attrgetter("ended_ns"))
        self._ended.clear()
        self._ended.extend(known)

    def latest(self, limit: int) -> Iterator[RequestRecord | ToldRecord]:
        """Yield the records of up to `limit` requests, the latest to end first."""
        return (ended.record() for ended in islice(reversed(self._ended), limit))


def _rank(rank: Rank) -> dict[str, object]:
    return {"name": rank.label, "url": rank.url, "rank": rank.rank}


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 3)
