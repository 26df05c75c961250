"""Listens to the KV events of vLLM workers (ZeroMQ) and tells the fleet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from urllib.parse import urlsplit

import zmq
import zmq.asyncio

from tercet.core.errors import UsageError
from tercet.router.named_worker import EventPort
from tercet.routing.events import KvTold
from tercet.routing.fleet import FleetState
from tercet.routing.kv_events import BlocksCleared, decode_batch

log = logging.getLogger(__name__)

MAX_BYTES = 64 << 20
"""Of one message: the events of a prompt of a million tokens have 5 MB. At a port of ours anybody may speak."""
NUMBER_BYTES = 8


class KvSubscriber:
    """One subscription per rank: rank i publishes at its worker's port + i, or brings its events to ours + i.

    Whenever messages were missed (a gap in their numbers, an engine that counts from the start again) what was believed
    of that rank is dropped: it fills again with what is stored from then on.
    """

    def __init__(self, fleet: FleetState, ports: Mapping[str, EventPort]) -> None:
        self._fleet, self._ports = fleet, ports
        self._context: zmq.asyncio.Context | None = None
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}

    def start(self) -> None:
        """Begin to listen. Raises UsageError when a port of ours is taken."""
        for url, port in self._ports.items():
            self.watch(url, port)

    def watch(self, url: str, port: EventPort) -> None:
        """Begin to listen to the ranks of one worker. Raises UsageError when a port of ours is taken."""
        if self._context is None:
            self._context = zmq.asyncio.Context()
        tasks = self._tasks.setdefault(url, [])
        for rank in [rank for rank in self._fleet.ranks.values() if rank.url == url]:
            socket = self._context.socket(zmq.SUB)
            socket.linger = 0
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            host = "127.0.0.1" if port.here else urlsplit(url).hostname
            endpoint = f"tcp://{host}:{port.number + (rank.rank or 0)}"
            try:
                (socket.bind if port.here else socket.connect)(endpoint)
            except zmq.ZMQError as error:
                socket.close()
                self.unwatch(url)
                raise UsageError(f"can't listen for the KV events of {rank.label} at {endpoint}: {error}") from error
            tasks.append(asyncio.create_task(self._listen(socket, rank.address, endpoint)))

    def unwatch(self, url: str) -> None:
        """Listen to a worker no more."""
        for task in self._tasks.pop(url, ()):
            task.cancel()

    async def close(self) -> None:
        """Stop listening."""
        tasks = [task for each in self._tasks.values() for task in each]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._context is not None:
            self._context.destroy(linger=0)

    async def _listen(self, socket: zmq.asyncio.Socket, address: str, endpoint: str) -> None:
        expected: int | None = None
        try:
            while True:
                frames = await socket.recv_multipart()
                try:
                    _, number, payload = frames
                    if len(number) > NUMBER_BYTES:
                        raise ValueError("their number is too long")
                    events = decode_batch(payload)
                except ValueError as error:
                    log.warning("%s published something else than KV events: %s", endpoint, error)
                    events, number = (BlocksCleared(),), b""
                told = int.from_bytes(number, "big") if number else None
                if expected is not None and told != expected:
                    log.warning("KV events of %s were missed (%s after %d): starting anew", address, told, expected - 1)
                    events = (BlocksCleared(), *events)
                expected = None if told is None else told + 1
                self._fleet.apply(KvTold(address, events))
        finally:
            socket.close()
