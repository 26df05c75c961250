"""A man in the middle who relays, and tampers with, the frames between a reader and a handoff server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import zmq

from tercet.core.ticket import Ticket
from tercet.transfer.messages import address_tag, derive_key
from tests.unit.transfer.peer import SECRET

Tamper = Callable[[list[bytes]], list[bytes] | None]
"""Frames in, frames out; None swallows the message."""


def unchanged(frames: list[bytes]) -> list[bytes]:
    return frames


class Proxy:
    """Relays `endpoint`; runs until the `with` block ends."""

    def __init__(self, endpoint: str, *, requests: Tamper = unchanged, answers: Tamper = unchanged) -> None:
        self._requests, self._answers = requests, answers
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.bind("tcp://127.0.0.1:*")
        self.endpoint = str(self._front.getsockopt_string(zmq.LAST_ENDPOINT))
        self._back = self._context.socket(zmq.DEALER)
        self._back.connect(endpoint)
        self._ending = threading.Event()
        self._peer = b""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(5)
        self._context.destroy(0)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        poller.register(self._back, zmq.POLLIN)
        while not self._ending.is_set():
            ready = dict(poller.poll(20))
            if self._front in ready:
                self._peer, *frames = self._front.recv_multipart()
                if (passed := self._requests(frames)) is not None:
                    self._back.send_multipart(passed)
            if self._back in ready and (passed := self._answers(self._back.recv_multipart())) is not None:
                self._front.send_multipart([self._peer, *passed])


def vouch(ticket: Ticket, control: str, addresses: dict[str, dict[str, Any]], secret: bytes = SECRET) -> Ticket:
    """Return the ticket with other endpoints, marked as the topology itself would."""
    key = derive_key(secret)
    marked = {name: {**address, "tag": address_tag(key, control, name, address)} for name, address in addresses.items()}
    params = {**ticket.to_params(), "control": control, "addresses": marked}
    return Ticket.from_params(params)
