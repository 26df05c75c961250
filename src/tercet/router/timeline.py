"""The timeline of a request in its own stream: a comment before `[DONE]`."""

from __future__ import annotations

import json
from time import perf_counter_ns

from tercet.http.relay import Rewriter
from tercet.router.account import Account
from tercet.router.span import STREAM, Span

DONE = b"data: [DONE]"
TAIL_BYTES = 4096


class TimelineWriter:
    """Passes a stream on, changed by `inner` first, with one comment more: `: timeline {JSON}`. Only what may be the
    begin of its last event waits. `worker` is the label of the rank that streams, None where P's answer was all."""

    __slots__ = ("_account", "_begun", "_first_ns", "_inner", "_tail", "_worker")

    def __init__(self, account: Account, worker: str | None = None, inner: Rewriter | None = None) -> None:
        self._account, self._worker, self._inner = account, worker, inner
        self._begun, self._tail, self._first_ns = b"", b"\n", 0

    def feed(self, piece: bytes) -> bytes:
        """Take a piece of the stream; return what can be passed on."""
        self._first_ns = self._first_ns or perf_counter_ns()
        return self._take(piece if self._inner is None else self._inner.feed(piece))

    def end(self) -> bytes:
        """Return what was kept back."""
        data = b"" if self._inner is None else self._take(self._inner.end())
        rest, self._begun = data + self._begun, b""
        return rest

    def _take(self, piece: bytes) -> bytes:
        data = self._begun + piece
        # With the end of what went out before: an event begins a line.
        at = (self._tail[-1:] + data).find(b"\n" + DONE)
        if at >= 0:
            self._tail = (self._tail + data[:at])[-TAIL_BYTES:]
            self._begun = b""
            return data[:at] + self._comment() + data[at:]
        begin = data.rfind(b"\n") + 1
        waits = (begin or self._tail.endswith(b"\n")) and DONE.startswith(data[begin:])
        out, self._begun = (data[:begin], data[begin:]) if waits else (data, b"")
        self._tail = (self._tail + out)[-TAIL_BYTES:]
        return out

    def _comment(self) -> bytes:
        account, now_ns = self._account, perf_counter_ns()
        account.ending(self._tail)
        spans = account.spans
        if self._worker is not None:
            spans.append(Span(STREAM, self._worker, self._first_ns, now_ns))
        account.end(200)
        record = account.record()
        if self._worker is not None:
            spans.pop()  # it is noted when it has ended
        return b": timeline " + json.dumps(record.to_json(urls=False), separators=(",", ":")).encode() + b"\n\n"
