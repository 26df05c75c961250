"""`nixl`: NVIDIA's transfer library over UCX: RDMA between machines that have it, process to process on one host.

What is authenticated: the metadata by which a peer's memory is reached (it carries the topology's mark, as every
address), and the commit after the copy. What is not: UCX itself. Whoever reaches its ports, or its RDMA device, can
read and write the memory of the process. On a loopback host only this machine reaches them; anywhere else keep them in
a network of their own. Nothing is encrypted, and there are no checksums but the network's.

Without RDMA devices UCX emulates remote reads by messages over TCP, at less than half the speed of `tcp`; and it ends
(1.5.1) an exporting process that was frozen in the middle of such a read, if it is thawed after its reader left.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tercet.core.errors import TransferError
from tercet.core.ids import new_id
from tercet.transfer.deadline import Deadline
from tercet.transfer.landing import Buffer, Landing, PeerGone
from tercet.transfer.nixl_agent import Agent, AgentError, Read
from tercet.transfer.runs import Run, coalesce
from tercet.transfer.transport import Export, Import, Transport

MAX_PEERS = 64


class NixlSource:
    """Exports a pool by registering it once; readers need no more help than UCX's own thread gives them."""

    name = "nixl"

    def __init__(self, export: Export) -> None:
        # One name for one pool of one engine: a reader that meets it again with other metadata knows that it changed.
        pool = export.segment.name if export.segment else "private"
        self._agent = Agent(f"{export.engine_id}:{pool}", export.host)
        self._base = self._agent.register(export.pool)
        self._metadata = self._agent.metadata()

    def address(self) -> dict[str, Any]:
        """Return the agent's name, its metadata (base64) and where the pool begins in its memory."""
        metadata = base64.b64encode(self._metadata).decode()
        return {"agent": self._agent.name, "metadata": metadata, "base": self._base}

    @property
    def dropped(self) -> Counter[str]:
        """Nothing: UCX does not tell."""
        return Counter()

    def close(self) -> None:
        """Let go of the pool."""
        self._agent.close()


class NixlReader:
    """Reads blocks out of other agents' pools. Thread-safe."""

    name = "nixl"

    def __init__(self, setting: Import) -> None:
        self._lock = threading.Lock()
        self._agent = Agent(new_id("reader"), setting.host)
        self._landing = Landing(self._agent.register_buffer)
        self._peers: dict[str, bytes] = {}
        self._closed = False

    def unreachable(self, address: dict[str, Any]) -> str | None:
        """Return what is wrong with the address, or None; whether somebody is there shows in `read`."""
        try:
            _parse(address)
        except TransferError as error:
            return str(error)
        return None

    def read(
        self,
        address: dict[str, Any],
        ticket_id: str,
        remote: Sequence[int],
        pool: memoryview,
        local: Sequence[int],
        block_bytes: int,
        timeout_s: float,
    ) -> None:
        """Copy blocks pairwise. Optimistic: whether they were still the ticket's is what the commit answers."""
        deadline = Deadline.after(timeout_s)
        name, metadata, base = _parse(address)
        self._meet(name, metadata)

        def start(buffer: Buffer, piece: list[Run]) -> Read:
            return self._agent.read(name, buffer.address, [(base + run.source, run.nbytes) for run in piece])

        try:
            self._landing.read(f"agent {name}", coalesce(remote, local, block_bytes), pool, deadline, start)
        except AgentError as error:
            self._forget(name, metadata)
            raise TransferError(f"agent {name} is gone: {error}") from error
        except PeerGone:
            self._forget(name, metadata)
            raise

    def close(self) -> None:
        """End reads under way and let go of every peer."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed and self._landing.close():
            self._agent.close()

    def _meet(self, name: str, metadata: bytes) -> None:
        # The handshake: it is only bookkeeping, UCX connects at the first read. A peer that registered its memory anew,
        # or restarted under its name, has other metadata: what was known of it goes.
        with self._lock:
            if self._closed:
                raise TransferError("this handoff client is closed")
            known = self._peers.pop(name, None)
            try:
                if known is not None and known != metadata:
                    self._agent.forget(name)
                    known = None
                if known is None:
                    while len(self._peers) >= MAX_PEERS:
                        oldest = next(iter(self._peers))
                        del self._peers[oldest]
                        self._agent.forget(oldest)
                    told = self._agent.meet(metadata)
                    if told != name:
                        self._agent.forget(told)
                        self._peers.pop(told, None)
                        raise TransferError(f"the metadata of agent {name} is that of agent {told}")
            except AgentError as error:
                raise TransferError(f"agent {name} cannot be reached: {error}") from error
            self._peers[name] = metadata  # last of the dictionary: the most recently used

    def _forget(self, name: str, metadata: bytes) -> None:
        with self._lock:
            if not self._closed and self._peers.get(name) == metadata:
                del self._peers[name]
                self._agent.forget(name)


def _parse(address: dict[str, Any]) -> tuple[str, bytes, int]:
    try:
        name, base = address["agent"], address["base"]
        metadata = base64.b64decode(address["metadata"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise TransferError(f"malformed nixl address: {error!r}") from error
    if not isinstance(name, str) or not isinstance(base, int) or not name or base <= 0 or not metadata:
        raise TransferError("malformed nixl address")
    return name, metadata, base


NIXL = Transport("nixl", NixlSource, NixlReader)
