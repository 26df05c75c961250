"""A worker whose chunks say when they were sent: `python -m benchmarks.router.paced --ports 18700 18701`.

It is one thread and its sockets, so that nothing but the machine delays it, and each stream keeps its own pace from the
moment it began. Its tickets say how long its prefill took, from the request's arrival, as do the streams that begin
with one. Whatever else is asked gets the answers of `benchmarks.router.backend`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import select
import socket
import sys
from time import sleep, time_ns

from benchmarks.router.backend import ANSWER, CHUNKS, DONE, FIXED, HEADERS, TICKET, WHOLE

from tercet.http.wire import LAST_CHUNK, chunk, response_head

SO_TIMESTAMPNS = 35
"""Linux: with what is read comes when it arrived, in nanoseconds of real time."""
STAMP = re.compile(rb'"t":([0-9]{19})')
ASKED = re.compile(rb'"q":([0-9]{19})')
PREFILLED = re.compile(rb'"prefill_ns": ?"?([0-9]+)')
_TICKET = json.dumps({**ANSWER, "kv_transfer_params": {**TICKET, "prefill_ns": "%019d"}}).encode()
_GAP_MS = re.compile(rb'"gap_ms":([0-9]+)')
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
_NAP_S = 0.0005
_STREAM_HEAD = response_head(200, (*HEADERS, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")))


def received(connection: socket.socket) -> tuple[bytes, int]:
    """Read from a socket with SO_TIMESTAMPNS; return what came, and when (Unix time in ns)."""
    data, more, _, _ = connection.recvmsg(65536, 64)
    now = time_ns()
    for _, _, stamp in more:
        return data, int.from_bytes(stamp[:8], sys.byteorder) * 10**9 + int.from_bytes(stamp[8:16], sys.byteorder)
    return data, now


class Worker:
    """Several workers, each on a port of its own."""

    def __init__(self, ports: list[int]) -> None:
        self._epoll = select.epoll()
        self._listening = {}
        for port in ports:
            server = socket.create_server(("127.0.0.1", port), backlog=2048)
            self._listening[server.fileno()] = server
            self._epoll.register(server, select.EPOLLIN)
        self._connections: dict[int, socket.socket] = {}
        self._begun: dict[int, bytes] = {}
        self._due: list[tuple[int, int, socket.socket, int, int]] = []
        """When, which connection, how many chunks are left, and the pace in nanoseconds."""

    def run(self) -> None:
        """Serve until killed."""
        while True:
            now = time_ns()
            while self._due and self._due[0][0] <= now:
                self._send()
            wait_s = (self._due[0][0] - time_ns()) / 1e9 if self._due else 0.0
            if wait_s > 0:
                sleep(min(wait_s, _NAP_S))
            for fd, _ in self._epoll.poll(0 if self._due else 0.05):
                if (server := self._listening.get(fd)) is not None:
                    self._accept(server)
                else:
                    self._read(fd)

    def _accept(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._connections[connection.fileno()] = connection
        self._epoll.register(connection, select.EPOLLIN)

    def _close(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._connections.pop(fd).close()
        self._begun.pop(fd, None)

    def _read(self, fd: int) -> None:
        connection = self._connections[fd]
        try:
            data, at = received(connection)
        except OSError:
            data, at = b"", 0
        if not data:
            self._close(fd)
            return
        data = self._begun.pop(fd, b"") + data
        end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data[: end - 2]) if end >= 4 else None
        if end < 4 or len(data) < end + int(length[1] if length else 0):
            self._begun[fd] = data
            return
        self._answer(connection, data[: data.index(b"\r\n")].split(b" ")[1].decode(), data[end:], at)

    def _answer(self, connection: socket.socket, path: str, body: bytes, at: int) -> None:
        if b'"do_remote_decode":true' in body:
            answer = _TICKET % (time_ns() - at)
        elif b'"stream":true' in body:
            gap = _GAP_MS.search(body)
            prefill = PREFILLED.search(body)
            connection.sendall(_STREAM_HEAD + _event(at, int(prefill[1]) if prefill else 0))
            gap_ns = int(gap[1] if gap else 0) * 1_000_000
            heapq.heappush(self._due, (time_ns() + gap_ns, connection.fileno(), connection, CHUNKS - 1, gap_ns))
            return
        else:
            answer = WHOLE if body else json.dumps(FIXED.get(path, {"status": "ok"})).encode()
        head = response_head(
            200, (*HEADERS, ("Content-Type", "application/json"), ("Content-Length", str(len(answer))))
        )
        connection.sendall(head + answer)

    def _send(self) -> None:
        due, fd, connection, left, gap_ns = self._due[0]
        try:
            if left:
                connection.send(_event())
                heapq.heapreplace(self._due, (due + gap_ns, fd, connection, left - 1, gap_ns))
                return
            connection.send(chunk(DONE) + LAST_CHUNK)
        except OSError:
            pass  # it left
        heapq.heappop(self._due)


def _event(asked: int = 0, prefill_ns: int = 0) -> bytes:
    choices = b'"choices":[{"index":0,"text":" word","logprobs":null}]'
    more = b',"q":%d,"prefill_ns":%d' % (asked, prefill_ns) if asked else b""
    return chunk(b'data: {"id":"cmpl-1","object":"text_completion",%b,"t":%d%b}\n\n' % (choices, time_ns(), more))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    Worker(parser.parse_args().ports).run()
