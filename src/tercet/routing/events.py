"""What happens to a fleet, in order. A fleet's state is a fold over these."""

from __future__ import annotations

from tercet.core.record import record
from tercet.core.route import Route
from tercet.core.stage import Mode, Stage
from tercet.routing.facts import RequestFacts
from tercet.routing.kv_events import BlockEvent


@record(frozen=True, slots=True)
class WorkerAdded:
    """A worker joined. `ranks` above 1 expand its URL into `url@0`, `url@1`, ...

    Said again of the same URL it replaces the worker's ranks: it turned out to have more or fewer. `first` is the
    number of its first rank in the role; None: the next one that is free.
    """

    url: str
    stages: frozenset[Stage]
    ranks: int = 1
    first: int | None = None


@record(frozen=True, slots=True)
class WorkerRemoved:
    """A worker left for good."""

    url: str


@record(frozen=True, slots=True)
class ModelsListed:
    """A worker said which models it serves."""

    url: str
    models: tuple[str, ...]


@record(frozen=True, slots=True)
class RankHealth:
    """A rank became ready (an inference through it succeeded) or stopped being so."""

    address: str
    ready: bool


@record(frozen=True, slots=True)
class CacheSized:
    """A rank said how many tokens its cache can hold, and of how many tokens the embeddings it keeps can be: what is
    believed of it shall be no more than that. None: it did not say."""

    address: str
    tokens: int | None
    embedding_tokens: int | None = None


@record(frozen=True, slots=True)
class RankRestarted:
    """Another engine answers at this address: caches, conversations and pairs of the old one are gone."""

    address: str


@record(frozen=True, slots=True)
class PairHealth:
    """A request crossed from this prefill rank to this decode rank, or failed to."""

    prefill: str
    decode: str
    ready: bool


@record(frozen=True, slots=True)
class Routed:
    """A request was sent on its way."""

    request_id: str
    route: Route
    facts: RequestFacts


@record(frozen=True, slots=True)
class Encoded:
    """An encode leg ended with an answer: `pictures` are (key, tokens) of what that rank encoded, and holds."""

    request_id: str
    address: str
    pictures: tuple[tuple[str, int], ...]


@record(frozen=True, slots=True)
class PicturesHeld:
    """A rank holds the embeddings of these pictures, (key, tokens), of this model: it prefilled with them."""

    address: str
    model: str
    pictures: tuple[tuple[str, int], ...]


@record(frozen=True, slots=True)
class PicturesLost:
    """A rank turned out not to hold the pictures of these keys."""

    address: str
    keys: tuple[str, ...]


@record(frozen=True, slots=True)
class Prefilled:
    """The prefill leg ended with an answer: P is done, its cache holds the prompt. `prompt_tokens` as P counted
    them."""

    request_id: str
    prompt_tokens: int | None


@record(frozen=True, slots=True)
class FirstToken:
    """The first token arrived; the decode rank's cache holds the prompt. Counts are the worker's, None when it
    gave none."""

    request_id: str
    prompt_tokens: int | None
    cached_tokens: int | None


@record(frozen=True, slots=True)
class Finished:
    """The request is over, however it ended; it no longer loads anybody. Also ends a route that is given up for
    another."""

    request_id: str


@record(frozen=True, slots=True)
class ConversationRecorded:
    """A turn ended well: `address` holds `prompt_tokens` of its prompt and `completion_tokens` of its answer."""

    facts: RequestFacts
    address: str
    prompt_tokens: int
    completion_tokens: int


@record(frozen=True, slots=True)
class PrefixLost:
    """The rank turned out not to hold this prompt's prefix."""

    facts: RequestFacts
    address: str


@record(frozen=True, slots=True)
class CacheStored:
    """A rank's cache holds the prompt of these facts, `prompt_tokens` long."""

    facts: RequestFacts
    address: str
    prompt_tokens: int


@record(frozen=True, slots=True)
class KvTold:
    """A rank's engine said what its cache stored and dropped."""

    address: str
    events: tuple[BlockEvent, ...]


@record(frozen=True, slots=True)
class CacheCleared:
    """A rank's cache is empty; every rank's when `address` is None."""

    address: str | None = None


@record(frozen=True, slots=True)
class ConversationsCleared:
    """Forget who holds which conversation, and whose cache holds which prefix: every next turn is like a first one."""


@record(frozen=True, slots=True)
class ModeChanged:
    """Requests that come from now on are routed by this mode."""

    mode: Mode


Event = (
    WorkerAdded
    | WorkerRemoved
    | ModelsListed
    | RankHealth
    | RankRestarted
    | CacheSized
    | PairHealth
    | Routed
    | Encoded
    | PicturesHeld
    | PicturesLost
    | Prefilled
    | FirstToken
    | Finished
    | ConversationRecorded
    | PrefixLost
    | CacheStored
    | KvTold
    | CacheCleared
    | ConversationsCleared
    | ModeChanged
)
