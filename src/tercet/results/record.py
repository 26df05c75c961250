"""What one request and one run left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FAILURES = (
    "refused", "http_4xx", "http_5xx", "timeout", "stalled", "closed", "engine_error", "wrong_length",
    "invalid_answer", "not_sent",
)  # fmt: skip
"""Kinds of failure: no connection, a status, no first byte in time, silence in mid-stream, an early end, an error the
engine reported, another length than asked, an answer that can't be read, a later turn of a failed conversation."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request's timeline. Times are seconds after the run's start; `turn` 1 is a conversation's first.

    `due_s` is when it should have been sent and `sent_s` when it was; `chunk_s` are the arrivals of the answer's
    non-empty pieces, the first of which ends TTFT. `cached_tokens` came from the decode worker's own prefix cache and
    `external_tokens` by transfer; None when the server didn't say. `error` is None for a whole and exact answer, and
    `failure` the kind of what went wrong otherwise, one of FAILURES. `headers_s` is when the answer's head came,
    `chunk_tokens` how many tokens each piece held, where the server says, and `phases_ms` where the time went (queue,
    encode, prefill, handoff, decode...). `images` were sent with it and made `vision_tokens` of the prompt.
    `expected_prompt_tokens` is the length the prompt was made to have, None where only the server can know it, and
    `retokenized_tokens` what another tokeniser made of the answer's text, where one was named.
    """

    conversation: str
    turn: int
    due_s: float
    sent_s: float
    done_s: float
    chunk_s: tuple[float, ...]
    prompt_tokens: int
    output_tokens: int
    expected_output_tokens: int
    cached_tokens: int | None = None
    external_tokens: int | None = None
    recomputed: bool = False
    output_digest: str | None = None
    route: str | None = None
    status: int = 200
    error: str | None = None
    failure: str | None = None
    headers_s: float | None = None
    chunk_tokens: tuple[int, ...] | None = None
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    vision_tokens: int | None = None
    expected_prompt_tokens: int | None = None
    retokenized_tokens: int | None = None

    @property
    def ok(self) -> bool:
        """True for a whole answer of exactly the asked length."""
        return self.error is None and bool(self.chunk_s)

    @property
    def ttft_ms(self) -> float:
        """Milliseconds from sending to the first non-empty content. Only of a request that is `ok`."""
        return (self.chunk_s[0] - self.sent_s) * 1e3

    @property
    def e2e_ms(self) -> float:
        """Milliseconds from sending to the last content (not to the connection's end). Only of an `ok` request."""
        return (self.chunk_s[-1] - self.sent_s) * 1e3

    @property
    def scheduled_ttft_ms(self) -> float:
        """Milliseconds from when it was due to the first content: what a user waits. Only of an `ok` request."""
        return (self.chunk_s[0] - self.due_s) * 1e3

    @property
    def scheduled_e2e_ms(self) -> float:
        """Milliseconds from when it was due to the last content. Only of an `ok` request."""
        return (self.chunk_s[-1] - self.due_s) * 1e3

    @property
    def tpot_ms(self) -> float | None:
        """Milliseconds per output token after the first: (E2E - TTFT) / (tokens - 1); None for a single token."""
        if self.output_tokens < 2:
            return None
        return (self.e2e_ms - self.ttft_ms) / (self.output_tokens - 1)

    @property
    def itl_ms(self) -> tuple[float, ...]:
        """Milliseconds between one piece of content and the next."""
        return tuple((b - a) * 1e3 for a, b in zip(self.chunk_s, self.chunk_s[1:], strict=False))


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """How the load generator itself fared: a late or busy client measures itself.

    Lateness is send time minus due time, in milliseconds; `cpu_fraction` is the client's CPU time over the run's wall
    time; `loop_lag_ms` is the delay of its event loop.
    """

    lateness_ms_p99: float
    lateness_ms_max: float
    loop_lag_ms_p99: float
    loop_lag_ms_max: float
    cpu_fraction: float
    saturated: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageBusy:
    """The share of a run, 0 to 1, in which a worker's engine computed for one stage; the mean of its ranks."""

    worker: str
    stage: str
    busy_fraction: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One architecture under one load, once. `order` is its place in the sequence of runs; `salt` names its prompts.

    `architecture` is a label, and the key of comparisons; by default the mode. `load` counts turns a second or
    conversations under way, as `load_kind` ("qps" or "concurrency") says. Runs of one `block` are paired: they sent the
    same conversations. `foreign_cores` is how many cores' worth of work other programs did on this machine meanwhile;
    None when unknown. `window_s` is the steady part of the run, where one was named: throughput counts it alone.
    """

    architecture: str
    mode: str
    workload: str
    load_kind: str
    load: float
    block: int
    order: int
    salt: str
    started_at: str
    duration_s: float
    client: ClientHealth
    requests: tuple[RequestRecord, ...]
    invalid_reasons: tuple[str, ...] = ()
    complete: bool = True
    foreign_cores: float | None = None
    stages: tuple[StageBusy, ...] = ()
    window_s: tuple[float, float] | None = None

    @property
    def invalid(self) -> bool:
        """True when its figures are no evidence: the client was saturated, or a cache was warm."""
        return bool(self.invalid_reasons)

    @property
    def measured(self) -> tuple[RequestRecord, ...]:
        """The requests that latencies are taken from: those sent in the steady window, all where none was named."""
        if self.window_s is None:
            return self.requests
        start_s, end_s = self.window_s
        return tuple(request for request in self.requests if start_s <= request.sent_s <= end_s)

    @property
    def finished(self) -> tuple[RequestRecord, ...]:
        """The requests that got a whole answer."""
        return tuple(request for request in self.requests if request.ok)
