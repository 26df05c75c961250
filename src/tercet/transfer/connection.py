"""The reader's side of a conversation with a handoff server: sockets with deadlines, kept while they work."""

from __future__ import annotations

import socket as sockets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import zmq

from tercet.core.errors import TransferError
from tercet.transfer.deadline import Deadline
from tercet.transfer.messages import new_nonce, open_answer, seal_request, unpack_body

MAX_FRAME_BYTES = 64 << 20
MAX_IDLE_PER_PEER = 8
IDLE_S = 60.0
CONNECT_TIMEOUT_S = 2.0
HANDSHAKE_TIMEOUT_S = 3.0
LOOK_MS = 20
"""How often a waiting thread looks whether its peer is still there."""
HEARTBEAT_MS = 1000
DEAD_AFTER_MS = 3000


@dataclass(frozen=True, slots=True)
class Reply:
    """One authenticated answer: which request it belongs to, its body, and data frames (valid while referenced)."""

    nonce: bytes
    body: dict[str, Any]
    frames: list[memoryview]


class Connection:
    """One DEALER socket. Used by one thread at a time; never again after an error.

    It doesn't reconnect: a broken connection is reported at once instead of at the deadline, and thrown away. A DEALER
    without a peer is one that can't be written to, which is how a loss shows. (A monitor socket would tell, too, but
    ZeroMQ 4.3.5 can block for ever, and leaks descriptors, when a monitored socket is closed.)
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, key: bytes, deadline: Deadline) -> None:
        self.endpoint = endpoint
        self.idle_since = time.monotonic()
        self._key = key
        self._connected = False
        _knock(endpoint, deadline)
        self._socket = context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_AFTER_MS)
        self._socket.setsockopt(zmq.IPV6, "[" in endpoint)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise TransferError(f"{endpoint!r} is no address of a handoff server: {error}") from error

    def close(self) -> None:
        """Close the socket; what was not sent is dropped."""
        self._socket.close()

    def broken(self) -> bool:
        """Return whether the peer has gone since the last use."""
        return not self._socket.poll(0, zmq.POLLOUT)

    def send(self, engine_id: str, op: str, ticket_id: str, deadline: Deadline, **fields: Any) -> bytes:
        """Send a request; return its nonce. Raises TransferError: peer gone, or deadline."""
        nonce = new_nonce()
        frame = seal_request(self._key, nonce, {"op": op, "ticket": ticket_id, "engine": engine_id, **fields})
        # The kernel connects to a process that is stopped or just being killed, too: it gets seconds to shake hands.
        left_s = deadline.check(f"connecting to {self.endpoint}")
        wait_ms = 0 if self._connected else _ms(min(left_s, HANDSHAKE_TIMEOUT_S))
        if not self._socket.poll(wait_ms, zmq.POLLOUT):
            raise self._gone() if self._connected else TransferError(f"{self.endpoint} did not answer in time")
        self._connected = True
        self._socket.send(frame, zmq.NOBLOCK)
        return nonce

    def receive(self, deadline: Deadline) -> Reply:
        """Return the next answer. Raises TransferError: peer gone, deadline, a forged answer, or a refusal."""
        while not self._socket.poll(min(_ms(deadline.remaining_s), LOOK_MS)):
            if not deadline.remaining_s:
                raise TransferError(f"{self.endpoint} did not answer in time")
            if self.broken():
                raise self._gone()
        head, *data = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        opened = open_answer(self._key, head.bytes)
        body = unpack_body(opened[1]) if opened else None
        if opened is None or body is None:
            raise TransferError(f"{self.endpoint} answered without knowing the topology's secret")
        if why := body.get("why"):
            raise TransferError(f"{self.endpoint} refuses: {why}")
        return Reply(opened[0], body, [frame.buffer for frame in data])

    def request(self, engine_id: str, op: str, ticket_id: str, deadline: Deadline, **fields: Any) -> dict[str, Any]:
        """Send a request and return its answer's body. Raises TransferError as `send` and `receive` do."""
        nonce = self.send(engine_id, op, ticket_id, deadline, **fields)
        reply = self.receive(deadline)
        if reply.nonce != nonce:
            raise TransferError(f"{self.endpoint} answered another request")
        return reply.body

    def _gone(self) -> TransferError:
        return TransferError(f"{self.endpoint} is gone: it closed the connection")


def _knock(endpoint: str, deadline: Deadline) -> None:
    # ZeroMQ would wait for somebody to listen; a plain connection tells at once that nobody does.
    parts = urlsplit(endpoint)
    try:
        if parts.scheme != "tcp" or not parts.hostname or not parts.port:
            raise ValueError("tcp://HOST:PORT wanted")
        timeout = min(deadline.check(f"connecting to {endpoint}"), CONNECT_TIMEOUT_S)
        sockets.create_connection((parts.hostname, parts.port), timeout).close()
    except (OSError, ValueError) as error:
        raise TransferError(f"{endpoint} is gone or unreachable: {error}") from error


def _ms(seconds: float) -> int:
    return int(seconds * 1000) + 1


class Connections:
    """Connections lent to one thread each. Thread-safe.

    ZeroMQ sockets may move between threads, not be used by two at once; the lock around the idle list is the barrier
    that a move needs.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._lock = threading.Lock()
        self._idle: dict[str, list[Connection]] = {}
        self._closed = False

    @contextmanager
    def to(self, endpoint: str, deadline: Deadline) -> Iterator[Connection]:
        """Lend a connection. It is kept for the next borrower unless the block raises.

        ZeroMQ's own errors leave as TransferError: also in a thread that is at work while `close` is called.
        """
        connection = self._take(endpoint) or self._open(endpoint, deadline)
        try:
            yield connection
        except zmq.ZMQError as error:
            connection.close()
            raise TransferError(f"{endpoint}: {error}") from error
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)

    def close(self) -> None:
        """Close every connection. Threads that borrow one get a TransferError; this waits until they gave it up."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()
        self._context.term()

    def __enter__(self) -> Connections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, endpoint: str, deadline: Deadline) -> Connection:
        try:
            return Connection(self._context, endpoint, self._key, deadline)
        except zmq.ZMQError as error:
            raise TransferError(f"no connection to {endpoint}: {error}") from error

    def _take(self, endpoint: str) -> Connection | None:
        with self._lock:
            if self._closed:
                raise TransferError("this handoff client is closed")
            self._prune()
            idle = self._idle.get(endpoint)
            return idle.pop() if idle else None

    def _give_back(self, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            idle = self._idle.setdefault(connection.endpoint, [])
            if not self._closed and len(idle) < MAX_IDLE_PER_PEER:
                idle.append(connection)
                return
        connection.close()

    def _prune(self) -> None:
        # Peers come back at other ports: what they leave would otherwise never be looked at again.
        horizon = time.monotonic() - IDLE_S
        for endpoint, idle in list(self._idle.items()):
            for connection in list(idle):
                if connection.idle_since < horizon or connection.broken():
                    idle.remove(connection)
                    connection.close()
            if not idle:
                del self._idle[endpoint]
