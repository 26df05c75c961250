"""What a dialect is: it turns a request and a route into legs, and answers into the next step. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tercet.core.build import EngineBuild
from tercet.core.errors import RequestError
from tercet.core.fast_json import Pieces
from tercet.core.record import record
from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.request import ClientRequest
from tercet.dialects.usage import Usage, find_usage

Headers = tuple[tuple[str, str], ...]
Make = Callable[[], bytes | Pieces]
"""Makes a leg's body."""


@record(frozen=True, slots=True)
class Leg:
    """One HTTP request to one rank. `streams`: if it succeeds, its answer's body is the client's, passed on as
    it comes; any other answer is read whole and given to `on_answer`. A body that holds pictures is made by `make`
    when it is sent, so that their bytes are not kept twice. `usage_details` is what the usage of a stream is to
    say of the prompt, where who writes it doesn't know."""

    stage: Stage
    rank: Rank
    path: str
    headers: Headers
    body: bytes
    streams: bool = False
    make: Make | None = None
    method: str = "POST"
    base: str | None = None
    usage_details: Mapping[str, int] | None = None

    @property
    def url(self) -> str:
        """Where the leg goes: to the rank, or to another server of its worker (`base`)."""
        return (self.base or self.rank.url) + self.path

    def let_go(self) -> None:
        """Forget what was sent, which may be long: its answer has begun, and may go on for long."""
        self.body, self.make = b"", None  # type: ignore[misc]  # see `record`


class Answer:
    """A whole HTTP answer. Header names are lower case. `usage` is what it says of its tokens; who has read the answer
    anyway says so in `told`, and spares the search for it."""

    __slots__ = ("body", "headers", "status", "told")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.told: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """Return its usage; None when it says nothing of it."""
        return find_usage(self.body) if self.told is None else self.told


@record(frozen=True, slots=True)
class Legs:
    """Send these, all at once."""

    legs: tuple[Leg, ...]


@record(frozen=True, slots=True)
class Reply:
    """The client's answer is complete. `early`: the decode leg was not needed."""

    status: int
    body: bytes
    content_type: str = "application/json"
    early: bool = False


@record(frozen=True, slots=True)
class Failure:
    """The route failed at `rank`. `retry`: another rank may do better. `misfit`: P and D don't understand each
    other."""

    error: RequestError
    rank: Rank
    retry: bool
    misfit: bool = False


@record(frozen=True, slots=True)
class PicturesNeeded:
    """The rank lacks these pictures, by their indices in the prompt, which it was told of by name or by a ticket."""

    rank: Rank
    pictures: tuple[int, ...]


Step = Legs | Reply | Failure | PicturesNeeded


class Exchange(Protocol):
    """The dialect's side of one request on one route."""

    def start(self) -> Legs:
        """Return the first legs."""
        ...

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take a leg's whole answer; return what is next."""
        ...

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return (key, tokens) of the request's pictures, by index, as far as workers named them."""
        ...

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """The request is over, or D has all that it needs. Return the releases to send: none when D `accepted` what P
        held for it, and none that were returned before."""
        ...


class Dialect(Protocol):
    """One kind of engine. `ready_path` answers 200 when the worker serves; `reset_path` drops its prefix cache on
    POST."""

    @property
    def name(self) -> str:
        """Return the dialect's name."""
        ...

    @property
    def ready_path(self) -> str:
        """Return the path that says whether a worker is up."""
        ...

    @property
    def reset_path(self) -> str:
        """Return the path that empties a worker's prefix cache."""
        ...

    @property
    def kv_use(self) -> tuple[str, str] | None:
        """Return the name of the workers' metric for the share of KV blocks in use, and its label for the rank."""
        ...

    @property
    def decode_alone(self) -> bool:
        """True when a decode worker can serve a whole request; else it needs P for every prompt."""
        ...

    @property
    def one_choice(self) -> bool:
        """True when P hands a prompt on for one answer alone: several are D's, where it can serve a whole request."""
        ...

    @property
    def rank_match(self) -> str:
        """Return which of D's ranks can take over from a rank of P when nobody says: `exact` or `any`."""
        ...

    @property
    def encodes(self) -> bool:
        """True when there are encode workers in this dialect, and prefill workers to which pictures can be named."""
        ...

    def prove_encoder(self, picture: str, rank: Rank, headers: Headers) -> Exchange:
        """Return the state machine that has one picture, a data URI, encoded as a proof of life."""
        ...

    def begin(self, request: ClientRequest, route: Route) -> Exchange:
        """Return the state machine of one request on one route. A route whose P is its D asks for a proof that this
        half of a pair lives, and ends after its first answer."""
        ...

    def engines(self, ready_answer: bytes) -> tuple[EngineState, ...]:
        """Return what the answer of `ready_path` says of each rank; empty when it says nothing."""
        ...


@dataclass(frozen=True, slots=True)
class EngineState:
    """One rank as its worker describes it. A new `engine_id` is a new process with an empty cache; None while it
    starts."""

    rank: int
    engine_id: str | None
    ready: bool
    kv_tokens: int | None = None
    embedding_tokens: int | None = None
    build: EngineBuild | None = None
