"""The prefill side of handoffs: what a ticket's control endpoint answers, and the sources it advertises."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from tercet.core.errors import TransferError, UsageError
from tercet.transfer.leases import LeaseTable
from tercet.transfer.messages import address_tag, derive_key
from tercet.transfer.pool import SharedPool
from tercet.transfer.protocol import BlockSource
from tercet.transfer.registry import AUTO, chosen
from tercet.transfer.responder import Answer, Responder
from tercet.transfer.transport import Export

log = logging.getLogger(__name__)


class HandoffServer:
    """Answers `renew` and `release` for the tickets in `leases`, and exports the pool through `transports`.

    Runs in threads of its own. `clock` is the engine's, in seconds; a renewal lasts `lease_s` from then. `wake` is
    called from the control thread after every renewal and release, so that the engine loop drains `leases` soon. It
    must not block.
    `control` and `addresses` go into tickets as they are.
    """

    def __init__(
        self,
        leases: LeaseTable,
        pool: SharedPool | memoryview,
        block_bytes: int,
        *,
        engine_id: str,
        transports: Sequence[str],
        secret: bytes,
        lease_s: float,
        wake: Callable[[], None],
        host: str = "127.0.0.1",
        advertise_host: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        memory = pool.memory if isinstance(pool, SharedPool) else pool.cast("B")
        segment = pool.segment if isinstance(pool, SharedPool) else None
        if block_bytes <= 0 or memory.nbytes < block_bytes:
            raise UsageError(f"a pool of {memory.nbytes} bytes holds no block of {block_bytes}")
        if segment is None and AUTO in transports:
            transports = [transport.name for transport in chosen(transports, host) if transport.name != "shm"]
        self._leases, self._lease_s, self._clock, self._wake = leases, lease_s, clock, wake
        key = derive_key(secret)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._sources: list[BlockSource] = []
        self._responder = Responder(
            self._context,
            "control",
            key=key,
            engine_id=engine_id,
            leases=leases,
            handle=self._handle,
            host=host,
            advertise_host=advertise_host,
        )
        self.control = self._responder.endpoint
        self.addresses: dict[str, dict[str, Any]] = {}
        export = Export(memory, segment, block_bytes, leases, engine_id, key, host, advertise_host, self._context)
        try:
            for transport in chosen(transports, host):
                source = transport.source(export)
                self._sources.append(source)
                address = {
                    **source.address(),
                    "engine_id": engine_id,
                    "block_bytes": block_bytes,
                    "num_blocks": memory.nbytes // block_bytes,
                }
                address["tag"] = address_tag(key, self.control, transport.name, address)
                self.addresses[transport.name] = address
        except UsageError:
            self.close()
            raise

    @property
    def dropped(self) -> Counter[str]:
        """Messages that were not answered, by reason: unauthenticated, malformed, replayed, failed, unsent."""
        total = Counter(self._responder.dropped)
        for source in self._sources:
            total += source.dropped
        return total

    def close(self) -> None:
        """Stop answering and exporting. Close the pool afterwards."""
        for source in self._sources:
            source.close()
        if self._responder.close():
            self._context.term()
        else:
            log.error("the control thread is stuck; its sockets stay open until this process ends")

    def _handle(self, op: str, ticket_id: str, body: dict[str, Any]) -> Answer:
        if op == "renew":
            done = self._leases.renew(ticket_id, self._clock() + self._lease_s)
        elif op == "release":
            accepted = body["accepted"]
            if not isinstance(accepted, bool):
                raise TypeError("accepted is a boolean")
            done = self._leases.release(ticket_id, accepted)
        else:
            raise TransferError(f"unknown request {op!r} to the control endpoint")
        if done:
            self._wake()
        return Answer({"done": done})
