"""What is noted of one request on its way, to become its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from time import perf_counter_ns, time

from tercet.core.route import Route
from tercet.core.stage import Mode
from tercet.dialects.usage import Usage, find_finish_reason, find_usage, read_answer
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


def word(code: str) -> str:
    """Return an error's code, if it is a word: fit for logs, records and labels of metrics. Others may quote a
    prompt."""
    return code if _CODE.fullmatch(code) else UNKNOWN_ERROR


class Account:
    """Filled in as the request gets on: `facts` once it is read, `observation` with each route taken. `timeline`: the
    client asked for its stream's timeline. `turn` says whether it continues a conversation: `first` or `later`.

    Once it has ended it holds what its record is made of, when somebody asks for that.
    """

    __slots__ = (
        "cached_tokens",
        "ended_at",
        "ended_ns",
        "error",
        "expected_cached_tokens",
        "facts",
        "finish_reason",
        "id",
        "key",
        "mode",
        "model",
        "observation",
        "output_tokens",
        "prompt_tokens",
        "received_ns",
        "retries",
        "route",
        "spans",
        "status",
        "stream",
        "timeline",
        "timing",
        "turn",
        "usage",
    )

    def __init__(self, request_id: str, mode: Mode, received_ns: int, headers: Mapping[str, str]) -> None:
        self.id, self.mode, self.model, self.stream, self.turn = request_id, mode, "", False, FIRST
        self.timing, self.received_ns = Timing(received_ns), received_ns
        self.spans = self.timing.spans
        self.timeline = headers.get(TIMELINE_HEADER) == "1"
        self.facts: RequestFacts | None = None
        self.observation: Observation | None = None
        self.usage: Usage | None = None
        self.output_tokens: int | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.key: str | None = None
        self.retries = 0
        self.route: Route | None = None
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.expected_cached_tokens: int | None = None

    def taken(self, observation: Observation) -> None:
        """A route was taken."""
        self.observation, route = observation, observation.route
        self.route = route
        self.turn = LATER if route.known or observation.facts.later_turn else FIRST

    def answered(self, body: bytes) -> None:
        """A whole answer came."""
        self.usage, self.finish_reason = read_answer(body)

    def ending(self, tail: bytes) -> None:
        """A stream ends with `tail`."""
        self.usage, self.finish_reason = find_usage(tail), find_finish_reason(tail)

    def streamed(self, worker: str, relayed: Relayed, error: str | None) -> None:
        """The stream ended, well or with the engine's word of an `error`."""
        self.ending(relayed.tail)
        self.error = error
        self.spans.append(Span(STREAM, worker, relayed.first_ns, relayed.last_ns, error))

    def broke(self, worker: str, error: str) -> None:
        """The stream broke off after its first byte."""
        self.error, spans = error, self.spans
        spans.append(Span(STREAM, worker, spans[-1].end_ns, perf_counter_ns(), error))

    def end(self, status: int) -> None:
        """The request ended, or is looked at as if it had."""
        self.status, self.ended_ns, self.ended_at = status, perf_counter_ns(), time()
        observation, usage = self.observation, self.usage
        if observation is not None:
            self.prompt_tokens, self.cached_tokens = observation.prompt_tokens, observation.cached_tokens
            self.expected_cached_tokens = observation.expected
        if usage is not None:
            self.prompt_tokens, self.output_tokens = usage.prompt_tokens, usage.completion_tokens
            if self.cached_tokens is None:
                self.cached_tokens = usage.cached_tokens

    def let_go(self) -> None:
        """Keep no more than what the record says: nothing of prompt or answer."""
        self.facts = self.observation = None

    def record(self) -> RequestRecord:
        """Return the record of the request, which has ended."""
        return RequestRecord(
            id=self.id,
            started_at=self.ended_at - (self.ended_ns - self.received_ns) / 1e9,
            received_ns=self.received_ns,
            ended_ns=self.ended_ns,
            mode=self.mode,
            turn=self.turn,
            model=self.model[:MODEL_CHARS],
            stream=self.stream,
            status=self.status,
            finish_reason=self.finish_reason,
            error=None if self.error is None else word(self.error),
            key=self.key,
            route=self.route,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            expected_cached_tokens=self.expected_cached_tokens,
            output_tokens=self.output_tokens,
            estimated=self.usage is None and self.output_tokens is not None,
            retries=self.retries,
            spans=tuple(self.spans),
        )
