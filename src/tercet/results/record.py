"""What one request and one run left behind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request's timeline. Times are seconds after the run's start; `turn` 1 is a conversation's first.

    `due_s` is when it should have been sent and `sent_s` when it was; `chunk_s` are the arrivals of the answer's
    non-empty pieces, the first of which ends TTFT. `cached_tokens` came from the decode worker's own prefix cache and
    `external_tokens` by transfer; None when the server didn't say. `error` is None for a whole and exact answer.
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
    def tpot_ms(self) -> float | None:
        """Milliseconds per output token after the first: (E2E - TTFT) / (tokens - 1); None for a single token."""
        if self.output_tokens < 2:
            return None
        return (self.e2e_ms - self.ttft_ms) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """How the load generator itself fared: a late or busy client measures itself.

    Lateness is send time minus due time, in milliseconds; `cpu_fraction` is the client's CPU time over the run's wall
    time; `loop_lag_ms_max` is the worst delay of its event loop.
    """

    lateness_ms_p99: float
    lateness_ms_max: float
    loop_lag_ms_max: float
    cpu_fraction: float
    saturated: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One mode under one rate, once. `order` is its place in the whole sequence of runs; `salt` names its prompts.

    `foreign_cores` is how many cores' worth of work other programs did on this machine meanwhile; None when unknown.
    """

    mode: str
    qps: float
    run: int
    order: int
    salt: str
    started_at: str
    duration_s: float
    client: ClientHealth
    requests: tuple[RequestRecord, ...]
    invalid_reasons: tuple[str, ...] = ()
    complete: bool = True
    foreign_cores: float | None = None

    @property
    def invalid(self) -> bool:
        """True when its figures are no evidence: the client was saturated, or a cache was warm."""
        return bool(self.invalid_reasons)

    @property
    def finished(self) -> tuple[RequestRecord, ...]:
        """The requests that got a whole answer."""
        return tuple(request for request in self.requests if request.ok)
