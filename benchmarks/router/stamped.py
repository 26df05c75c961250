"""The client of `benchmarks.router.paced`: how long what was sent took to arrive.

One thread and its sockets. When bytes arrived is said by the kernel, so that the client's own slowness is in no time.
"""

from __future__ import annotations

import json
import select
import socket
from dataclasses import dataclass, field
from time import monotonic, time_ns

from benchmarks.router.backend import CHUNKS, PATH
from benchmarks.router.paced import ASKED, PREFILLED, SO_TIMESTAMPNS, STAMP, received

from tercet.http.wire import LAST_CHUNK, request_head


@dataclass(slots=True)
class Times:
    """What streams took in milliseconds: `firsts` the way of a request to the worker and of its first chunk back, also
    by way of a prefill, whose own time is not in it; `delays` that of each later chunk, `gaps` by how much the time
    between two chunks was longer than it was sent."""

    firsts: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Stream:
    connection: socket.socket
    slot: int
    turn: int = 0
    sent_ns: int = 0
    last: float | None = None
    end: bytes = b""


class Streams:
    """Keeps `count` streams going on a port, whose beginnings are spread evenly over the length of one."""

    def __init__(self, port: int, count: int, gap_ms: int, words: int, salt: str) -> None:
        self._port, self._count, self._gap_ms, self._salt = port, count, gap_ms, salt
        self._words = "word " * words
        self._epoll = select.epoll()
        self._streams: dict[int, _Stream] = {}
        self._times: Times | None = None
        self.length_s = CHUNKS * gap_ms / 1000
        self._every_s = self.length_s / count
        self._next = monotonic()
        self.requests = 0
        """How many were sent."""

    def grow(self, count: int) -> None:
        """Have `count` streams from now on, of which the new ones begin spread over the length of one."""
        self._every_s, self._next = self.length_s / (count - self._count), monotonic()
        self._count = count

    def run(self, seconds: float, *, counted: bool = False) -> Times:
        """Go on for so long; return the times of what came meanwhile if it is `counted`."""
        times = Times()
        self._times = times if counted else None
        until = monotonic() + seconds
        while (now := monotonic()) < until:
            while len(self._streams) < self._count and now >= self._next:
                self._next += self._every_s
                self._open(len(self._streams))
            for fd, _ in self._epoll.poll(0.002):
                self._read(self._streams[fd])
        return times

    def close(self) -> None:
        """Leave."""
        for stream in self._streams.values():
            stream.connection.close()
        self._epoll.close()

    def _open(self, slot: int) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._epoll.register(connection, select.EPOLLIN)
        stream = self._streams[connection.fileno()] = _Stream(connection, slot)
        self._ask(stream)

    def _ask(self, stream: _Stream) -> None:
        prompt = f"{self._salt}{stream.slot}/{stream.turn} {self._words}"
        data = {"model": "m", "gap_ms": self._gap_ms, "prompt": prompt, "max_tokens": CHUNKS, "stream": True}
        body = json.dumps(data, separators=(",", ":")).encode()
        headers = (("Host", "x"), ("Content-Type", "application/json"), ("Content-Length", str(len(body))))
        stream.last, stream.end, stream.turn = None, b"", stream.turn + 1
        request = request_head("POST", PATH, headers) + body
        self.requests += 1
        stream.sent_ns = time_ns()
        stream.connection.sendall(request)

    def _read(self, stream: _Stream) -> None:
        data, at = received(stream.connection)
        if not data or (stream.last is None and stream.end == b"" and not data.startswith(b"HTTP/1.1 200")):
            raise RuntimeError(f"a stream broke off, or was refused: {data[:300]!r}")
        times = self._times
        for stamp in STAMP.findall(data):
            delay = (at - int(stamp)) / 1e6
            if times is not None and stream.last is not None:
                times.delays.append(delay)
                times.gaps.append(delay - stream.last)
            elif times is not None and (asked := ASKED.search(data)) is not None:
                prefill = PREFILLED.search(data)
                own_ns = int(prefill[1]) if prefill else 0
                times.firsts.append(delay + (int(asked[1]) - stream.sent_ns - own_ns) / 1e6)
            stream.last = delay
        stream.end = (stream.end + data)[-len(LAST_CHUNK) :]
        if stream.end == LAST_CHUNK:
            self._ask(stream)
