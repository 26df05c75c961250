"""The beginning of a stream that holds no answer: engines say HTTP 200 before they know whether there will be one."""

from __future__ import annotations

from tercet.dialects.protocol import Leg, Step
from tercet.dialects.refusal import engine_failed, error_in, gave_up
from tercet.dialects.usage import ERROR_EVENT, failed, find_finish_reason

_END = b"data: [DONE]"
_THEN_END = b"\n" + _END


class FalseStart(Exception):
    """A stream began, and no answer does; `step` is what that means."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step


def false_start(leg: Leg, first: bytes) -> Step | None:
    """Return what it means that D's stream fails in its `first` bytes, of which the client has seen none: the same as
    of a whole answer. None where an answer begins."""
    if failed(first):
        # Of an error that is cut nobody knows yet whose fault it is.
        cut = ERROR_EVENT in first and error_in(first) is None
        return None if cut else gave_up(leg, first)
    # Of a request that was aborted before its first token vLLM streams no event, but the end.
    if (_THEN_END in first or first.startswith(_END)) and find_finish_reason(first) is None:
        return engine_failed(leg, "a stream without an answer")
    return None


def is_clients(events: bytes) -> bool:
    """True when the error that events of a stream say is the client's own affair: a 4xx."""
    error = error_in(events)
    return error is not None and error.status < 500
