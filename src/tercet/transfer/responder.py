"""A ZeroMQ ROUTER in its own thread that answers authenticated requests and nothing else."""

from __future__ import annotations

import logging
import socket as sockets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from tercet.core.errors import TransferError, UsageError
from tercet.core.faults import whence
from tercet.transfer.leases import LeaseTable
from tercet.transfer.messages import open_request, seal_answer, unpack_body

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1 << 20
HEARTBEAT_MS = 2000
DEAD_AFTER_MS = 6000
CLOSE_TIMEOUT_S = 5.0
CLOSE_LINGER_MS = 1000
WILDCARDS = ("0.0.0.0", "::", "*")


@dataclass(frozen=True, slots=True)
class Answer:
    """A body and the data frames that follow it; frames are sent without a copy."""

    body: dict[str, Any]
    frames: Sequence[memoryview] = ()


Handler = Callable[[str, str, dict[str, Any]], Answer]
"""(op, ticket id, body) -> answer. Raises TransferError to refuse, ValueError, TypeError or KeyError for a bad body."""


class Responder:
    """Owns one ROUTER socket and the thread that serves it.

    Messages that are malformed, of another secret or seen before are dropped and counted in `dropped`, never answered:
    a stranger learns nothing, and no message can end the thread.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        *,
        key: bytes,
        engine_id: str,
        leases: LeaseTable,
        handle: Handler,
        host: str,
        advertise_host: str | None = None,
    ) -> None:
        self._key, self._engine_id, self._leases, self._handle = key, engine_id, leases, handle
        self.dropped: Counter[str] = Counter()
        self._router = context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._router.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self._router.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_AFTER_MS)
        self._router.setsockopt(zmq.IPV6, ":" in host)
        try:
            self._router.bind(f"tcp://{_bracket(host)}:*")
        except zmq.ZMQError as error:
            self._router.close()
            raise UsageError(f"the handoff server cannot listen on {host!r}: {error}") from error
        port = str(self._router.getsockopt_string(zmq.LAST_ENDPOINT)).rpartition(":")[2]
        self.endpoint = f"tcp://{_bracket(advertise_host or advertised(host))}:{port}"
        stop = f"inproc://stop-{name}-{id(self)}"
        self._stopped = context.socket(zmq.PAIR)
        self._stopped.bind(stop)
        self._stop = context.socket(zmq.PAIR)
        self._stop.connect(stop)
        self._thread = threading.Thread(target=self._run, name=f"handoff-{name}", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Stop the thread and close its sockets; False when it is stuck. Data handed to ZeroMQ already may be lost."""
        if not self._stop.closed:
            self._stop.send(b"")
            self._stop.close(CLOSE_LINGER_MS)
            self._thread.join(CLOSE_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._stopped, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll())
                if self._stopped in ready:
                    return
                self._receive()
        finally:
            self._router.close()
            self._stopped.close(0)

    def _receive(self) -> None:
        try:
            peer, *frames = self._router.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        opened = open_request(self._key, frames[0]) if len(frames) == 1 else None
        if opened is None:
            self._drop("unauthenticated")
            return
        nonce, packed = opened
        body = unpack_body(packed)
        if body is None:
            self._drop("malformed")
            return
        op, ticket_id, engine_id = body.get("op"), body.get("ticket"), body.get("engine")
        if not (isinstance(op, str) and isinstance(ticket_id, str) and isinstance(engine_id, str)):
            self._drop("malformed")
            return
        if engine_id != self._engine_id:
            self._send(peer, nonce, Answer({"why": f"this is engine {self._engine_id}: {engine_id} is gone"}))
            return
        if not self._leases.first_use(ticket_id, nonce):
            self._drop("replayed")
            return
        try:
            answer = self._handle(op, ticket_id, body)
        except TransferError as refusal:
            answer = Answer({"why": str(refusal)})
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            log.warning("malformed %.40r request: %s", op, whence(error))
            self._drop("malformed")
            return
        except Exception:  # a fault in one request must not end the service of all others
            log.exception("answering a %s request", op)
            self._drop("failed")
            return
        self._send(peer, nonce, answer)

    def _send(self, peer: bytes, nonce: bytes, answer: Answer) -> None:
        frames: list[bytes | memoryview] = [peer, seal_answer(self._key, nonce, answer.body), *answer.frames]
        try:
            self._router.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            self.dropped["unsent"] += 1
            log.warning("an answer could not be sent: %s", error)

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1


def advertised(host: str) -> str:
    """Return the address others use for a server bound to `host`: for a wildcard, this machine's outgoing one."""
    if host not in WILDCARDS:
        return host
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks the kernel which address it would use
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
