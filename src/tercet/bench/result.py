"""What the load generator saw of one request."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from tercet.results.record import RequestRecord


@dataclass(frozen=True, slots=True)
class RequestResult:
    """One request's timeline, in perf_counter nanoseconds, and its answer. `turn` 1 is a conversation's first.

    `chunk_ns` are the socket reads that brought non-empty content (text, reasoning, a tool call or token ids): the
    first ends TTFT. Role chunks, comments and usage don't count. Token counts are the server's own (`usage`), None
    when it didn't say; `cached_tokens` came from the decode worker's prefix cache, `external_tokens` by transfer.
    `status` is 0 when there was no answer at all. `error` is None for a whole answer of exactly the asked length, and
    `failure` its kind otherwise (`results.record.FAILURES`).
    """

    conversation: str
    turn: int
    scheduled_ns: int
    sent_ns: int
    done_ns: int
    head_ns: int | None = None
    chunk_ns: tuple[int, ...] = ()
    chunk_tokens: tuple[int, ...] | None = None
    status: int = 0
    error: str | None = None
    failure: str | None = None
    expected_tokens: int | None = None
    expected_prompt_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    external_tokens: int | None = None
    completion_tokens: int | None = None
    vision_tokens: int | None = None
    images: int = 0
    recomputed: bool = False
    finish_reason: str | None = None
    text: str = ""
    token_ids: tuple[int, ...] = ()
    route: str | None = None
    phases_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True for a whole answer with content."""
        return self.error is None and bool(self.chunk_ns)

    @property
    def ttft_ms(self) -> float | None:
        """Milliseconds from sending to the first non-empty content."""
        return (self.chunk_ns[0] - self.sent_ns) / 1e6 if self.chunk_ns else None

    @property
    def tpot_ms(self) -> float | None:
        """(E2E - TTFT) / (tokens - 1) in milliseconds; None for one token or none, or when the server didn't count."""
        if not self.chunk_ns or self.completion_tokens is None or self.completion_tokens < 2:
            return None
        return (self.chunk_ns[-1] - self.chunk_ns[0]) / 1e6 / (self.completion_tokens - 1)

    @property
    def delay_ms(self) -> float:
        """Milliseconds by which the request was sent too late."""
        return (self.sent_ns - self.scheduled_ns) / 1e6

    @property
    def digest(self) -> str | None:
        """Digest of the answer's token ids, of its text when the server sent no ids; None without an answer."""
        if self.token_ids:
            return blake2b(array("I", self.token_ids).tobytes(), digest_size=16).hexdigest()
        return blake2b(self.text.encode(), digest_size=16).hexdigest() if self.text else None

    def record(self, origin_ns: int) -> RequestRecord:
        """Return this as a results file keeps it: seconds after `origin_ns`, counts instead of contents."""

        def seconds(ns: int) -> float:
            return (ns - origin_ns) / 1e9

        return RequestRecord(
            conversation=self.conversation,
            turn=self.turn,
            due_s=seconds(self.scheduled_ns),
            sent_s=seconds(self.sent_ns),
            done_s=seconds(self.done_ns),
            chunk_s=tuple(seconds(ns) for ns in self.chunk_ns),
            prompt_tokens=self.prompt_tokens or 0,
            output_tokens=self.completion_tokens or 0,
            expected_output_tokens=self.expected_tokens or 0,
            expected_prompt_tokens=self.expected_prompt_tokens,
            cached_tokens=self.cached_tokens,
            external_tokens=self.external_tokens,
            recomputed=self.recomputed,
            output_digest=self.digest,
            route=self.route,
            status=self.status,
            error=self.error,
            failure=self.failure,
            headers_s=seconds(self.head_ns) if self.head_ns is not None else None,
            chunk_tokens=self.chunk_tokens,
            phases_ms=self.phases_ms,
            images=self.images,
            vision_tokens=self.vision_tokens,
        )
