"""A sequence: one prompt on its way to one answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tercet.core.image import ImageSpan
from tercet.core.sampling import SampledToken, SamplingParams
from tercet.core.ticket import Ticket


class State(StrEnum):
    """Where a sequence is. See the scheduler's contract in the design."""

    WAITING = "waiting"
    WAITING_REMOTE = "waiting_remote"
    RUNNING = "running"
    PREEMPTED = "preempted"
    HELD = "held"
    DONE = "done"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """Mutable bookkeeping of one sequence; owned by one Scheduler, read by its executor.

    `tokens` is the prompt followed by the output; `computed` counts the leading tokens whose KV is in `blocks`.
    `images` are the spans of the prompt that stand for pictures, in order and apart. Of their keys, `sources` are those
    whose embeddings can be read elsewhere under a ticket, `owned` those leased for this sequence in the own pool.
    `hold` asks for a ticket after the first token (prefill worker); `ticket` says that the prompt's KV is held
    elsewhere (decode worker): `tokens` then already ends with the ticket's first token.

    The scheduler sets `number` (order of arrival), `limit` (length in tokens that ends it) and `stops` (tokens that do)
    when the sequence is added. It sets `missing` (pictures by index) when it ends a sequence that can't get them, and
    `first_due` while a ticket's first token, whose KV could not be had, waits for the pictures to compute it again.
    """

    id: str
    tokens: list[int]
    prompt_len: int
    sampling: SamplingParams
    arrival: float
    root: bytes
    hold: bool = False
    ticket: Ticket | None = None
    images: tuple[ImageSpan, ...] = ()
    sources: set[str] = field(default_factory=set)
    owned: frozenset[str] = frozenset()
    state: State = State.WAITING
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    cached_tokens: int = 0
    external_tokens: int = 0
    preemptions: int = 0
    lease_until: float | None = None
    finish_reason: str | None = None
    number: int = 0
    limit: int = 0
    stops: frozenset[int] = frozenset()
    missing: tuple[int, ...] = ()
    first_due: bool = False

    @property
    def output_len(self) -> int:
        """Tokens produced so far, a ticket's first token included."""
        return len(self.tokens) - self.prompt_len


class Chunk(NamedTuple):
    """A sequence's share of one step: compute tokens[start : start + length].

    `samples`: the last position's logits choose the token at position start + length. One is made for every sequence
    of every step, hence a tuple: a frozen data class takes three times as long to make.
    """

    sequence: Sequence
    start: int
    length: int
    samples: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: decode chunks (length 1) and prefill chunks under one token budget.

    `decodes` more sequences decode that are counted only (see `Scheduler.schedule_round`), of `context` tokens in all.
    """

    chunks: tuple[Chunk, ...]
    decodes: int = 0
    context: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step."""
        return self.decodes + sum(chunk.length for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Fetch:
    """A remote read to start: copy the ticket's blocks `remote` into the local blocks `local`, pairwise."""

    sequence: Sequence
    remote: tuple[int, ...]
    local: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ImageFetch:
    """A remote read to start: copy the embeddings of the picture `key`, under the sequence's ticket for it.

    `local` are the blocks of the embedding pool that they go into.
    """

    sequence: Sequence
    key: str
    local: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What `Scheduler.schedule(now)` decided: a batch to execute (may be empty) and reads to start beside it.

    `refused` are sequences that can't get a picture: they have ended, with an error, and `missing` says which.
    """

    batch: Batch
    fetches: tuple[Fetch, ...] = ()
    image_fetches: tuple[ImageFetch, ...] = ()
    refused: tuple[Output, ...] = ()


class Output(NamedTuple):
    """What one step (or event) brought one sequence, which is already in the state that follows.

    `sampled` is None for an event without a token (cancelled, failed). `finish_reason` is "stop", "length", "abort",
    "error" or None. A tuple for the same reason as Chunk.
    """

    sequence: Sequence
    sampled: SampledToken | None
    finish_reason: str | None
