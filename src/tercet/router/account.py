"""What is noted of one request on its way, to become its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from time import perf_counter_ns, time

from tercet.core.stage import Mode
from tercet.dialects.usage import Usage, find_finish_reason, find_usage
from tercet.http.client import Relayed
from tercet.router.observation import Observation
from tercet.router.record import MODEL_CHARS, RequestRecord
from tercet.router.span import STREAM, Span
from tercet.router.timing import Timing
from tercet.routing.facts import RequestFacts

TIMELINE_HEADER = "x-tercet-timeline"
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
UNKNOWN_ERROR = "worker_error"
"""What a worker calls its error may be anything, and is kept if it is a word."""
FIRST, LATER = "first", "later"


class Account:
    """Filled in as the request gets on: `facts` once it is read, `observation` with each route taken. `timeline`: the
    client asked for its stream's timeline."""

    __slots__ = (
        "error",
        "facts",
        "finish_reason",
        "id",
        "key",
        "mode",
        "model",
        "observation",
        "output_tokens",
        "retries",
        "stream",
        "timeline",
        "timing",
        "usage",
    )

    def __init__(self, request_id: str, mode: Mode, received_ns: int, headers: Mapping[str, str]) -> None:
        self.id, self.mode, self.model, self.stream = request_id, mode, "", False
        self.timing = Timing(received_ns)
        self.timeline = headers.get(TIMELINE_HEADER) == "1"
        self.facts: RequestFacts | None = None
        self.observation: Observation | None = None
        self.usage: Usage | None = None
        self.output_tokens: int | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.key: str | None = None
        self.retries = 0

    @property
    def turn(self) -> str:
        """Whether the request continues a conversation: `first` or `later`."""
        facts, observation = self.facts, self.observation
        later = facts is not None and facts.later_turn
        return LATER if later or (observation is not None and observation.route.known) else FIRST

    @property
    def answerer(self) -> str:
        """The label of the rank that answers."""
        return "" if self.observation is None else self.observation.route.decode.label

    def answered(self, text: bytes) -> None:
        """A whole answer came, or (`text` is its end) a stream."""
        self.usage, self.finish_reason = find_usage(text), find_finish_reason(text)

    def streamed(self, worker: str, relayed: Relayed, error: str | None) -> None:
        """The stream ended, well or with the engine's word of an `error`."""
        self.answered(relayed.tail)
        self.error = error
        self.timing.spans.append(Span(STREAM, worker, relayed.first_ns, relayed.last_ns, error))

    def broke(self, worker: str, error: str) -> None:
        """The stream broke off after its first byte."""
        self.error, spans = error, self.timing.spans
        spans.append(Span(STREAM, worker, spans[-1].end_ns, perf_counter_ns(), error))

    def record(self, status: int) -> RequestRecord:
        """Return the record of the request as it ended, or as it is now."""
        now_ns, timing, observation, usage = perf_counter_ns(), self.timing, self.observation, self.usage
        prompt = cached = expected = None
        if usage is not None:
            prompt, cached = usage.prompt_tokens, usage.cached_tokens
        if observation is not None:
            prompt = observation.prompt_tokens if prompt is None else prompt
            cached = cached if observation.cached_tokens is None else observation.cached_tokens
            expected = observation.expected
        return RequestRecord(
            id=self.id,
            started_at=time() - (now_ns - timing.received_ns) / 1e9,
            received_ns=timing.received_ns,
            ended_ns=now_ns,
            mode=self.mode,
            turn=self.turn,
            model=self.model[:MODEL_CHARS],
            stream=self.stream,
            status=status,
            finish_reason=self.finish_reason,
            error=None if self.error is None else self.error if _CODE.fullmatch(self.error) else UNKNOWN_ERROR,
            key=self.key,
            route=None if observation is None else observation.route,
            prompt_tokens=prompt,
            cached_tokens=cached,
            expected_cached_tokens=expected,
            output_tokens=self.output_tokens if usage is None else usage.completion_tokens,
            estimated=usage is None and self.output_tokens is not None,
            retries=self.retries,
            spans=tuple(timing.spans),
        )
