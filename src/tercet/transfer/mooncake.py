"""`mooncake`: the transfer engine of the Mooncake project, peer to peer over TCP.

What is authenticated: where a peer is and what it exports (its address carries the topology's mark, as every address),
and the commit after the copy. What is not: Mooncake's own ports. They listen on every device of the machine whatever
host the worker is bound to (0.3.13 cannot be told otherwise), and whoever reaches them reads the exported pool without
a secret. Nobody can write it: what is registered is a mapping that cannot be written. Nothing is encrypted, and there
are no checksums but TCP's. So `auto` never chooses this transport.
"""

from __future__ import annotations

import mmap
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tercet.core.errors import TransferError, UsageError
from tercet.transfer.deadline import Deadline
from tercet.transfer.landing import Buffer, Fate, Landing, PeerGone
from tercet.transfer.mooncake_engine import Engine, Engines, Read
from tercet.transfer.pool import DATA_OFFSET, SHM_DIR
from tercet.transfer.responder import advertised
from tercet.transfer.runs import Run, coalesce
from tercet.transfer.transport import Export, Import, Transport

MAX_PEERS = 16
HANDSHAKE_LOOK_S = 0.002
SESSION = re.compile(r"[A-Za-z0-9_.-]+:[0-9]{1,5}")


class MooncakeSource:
    """Exports a pool in shared memory through an engine that has it registered."""

    name = "mooncake"

    def __init__(self, export: Export) -> None:
        if export.segment is None:
            raise UsageError("transport mooncake needs a pool made by SharedPool.create: take another, or share it")
        fd = os.open(SHM_DIR / export.segment.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # Whoever reaches the port may also write what is registered: into this mapping nobody can.
            self._map = mmap.mmap(fd, DATA_OFFSET + export.segment.nbytes, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(fd)
        self._base = int(np.frombuffer(self._map, np.uint8).ctypes.data) + DATA_OFFSET
        self._host = export.advertise_host or advertised(export.host)
        if not SESSION.fullmatch(f"{self._host}:0"):
            raise UsageError(f"transport mooncake cannot export from {self._host!r}: give it a name or an IPv4 address")
        self._engine = Engine(self._host)
        self._engine.register(self._base, export.segment.nbytes)

    def address(self) -> dict[str, Any]:
        """Return where the engine shakes hands, and where the pool begins in its memory."""
        return {"session": f"{self._host}:{self._engine.port}", "base": self._base}

    @property
    def dropped(self) -> Counter[str]:
        """Nothing: the library does not tell."""
        return Counter()

    def close(self) -> None:
        """Stop exporting. The engine's destructor keeps the interpreter for about a second."""
        self._engine.close()


class MooncakeReader:
    """Reads blocks out of other engines' pools. Thread-safe."""

    name = "mooncake"

    def __init__(self, setting: Import) -> None:
        self._lock = threading.Lock()
        self._engines = Engines()
        self._landing = Landing()
        self._peers: dict[tuple[str, str], _Peer] = {}
        self._closed = False

    def unreachable(self, address: dict[str, Any]) -> str | None:
        """Return what is wrong with the address, or None; whether somebody listens shows in `read`."""
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
        engine_id, session, base = _parse(address)
        peer = self._peer(engine_id, session)
        try:
            peer.shake_hands(base, deadline)
        except TransferError:
            if not peer.shaking:
                self._drop(peer)
            raise

        def start(buffer: Buffer, piece: list[Run]) -> Read:
            runs = [(base + run.source, run.nbytes) for run in piece]
            return peer.engine.read(session, buffer.address, runs)

        try:
            self._landing.read(f"engine {engine_id}", coalesce(remote, local, block_bytes), pool, deadline, start)
        except PeerGone:
            # The library keeps what it once learnt of a peer: the next read begins with another engine of ours, and a
            # new handshake.
            self._drop(peer)
            raise

    def close(self) -> None:
        """End reads under way and forget every peer."""
        with self._lock:
            self._closed = True
            peers = list(self._peers.values())
            self._peers.clear()
        for peer in peers:
            peer.close()
        if self._landing.close():
            self._engines.close()

    def _peer(self, engine_id: str, session: str) -> _Peer:
        with self._lock:
            if self._closed:
                raise TransferError("this handoff client is closed")
            key = (engine_id, session)
            peer = self._peers.pop(key, None)
            if peer is None:
                while len(self._peers) >= MAX_PEERS:
                    self._engines.give_back(self._peers.pop(next(iter(self._peers))).engine)
                peer = _Peer(engine_id, session, self._engines.take(session))
            self._peers[key] = peer  # last of the dictionary: the most recently used
            return peer

    def _drop(self, peer: _Peer) -> None:
        with self._lock:
            if self._peers.get((peer.engine_id, peer.session)) is peer:
                del self._peers[peer.engine_id, peer.session]
                self._engines.give_back(peer.engine)


class _Peer:
    """An engine of another process, reached through one of ours that talks to nobody else."""

    def __init__(self, engine_id: str, session: str, engine: Engine) -> None:
        self.engine_id, self.session, self.engine = engine_id, session, engine
        self._scratch = Buffer()
        self._shaken = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._why: str | None = None

    def shake_hands(self, base: int, deadline: Deadline) -> None:
        """Wait until the two engines know each other. Raises TransferError: peer gone, or deadline.

        The library's first call about a peer asks it for its addresses and waits for as long as that takes: a thread
        does it, and no more than this peer's readers wait for that thread.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._shake, args=(base,), name="mooncake-hello", daemon=True)
                self._thread.start()
        if not self._shaken.wait(deadline.remaining_s):
            raise TransferError(f"engine {self.engine_id} did not answer in time")
        if self._why is not None:
            raise TransferError(self._why)

    @property
    def shaking(self) -> bool:
        """Return whether the handshake is still under way."""
        return not self._shaken.is_set()

    def close(self) -> None:
        """Let go of those who wait."""
        self._why = self._why or "this handoff client is closed"
        self._shaken.set()

    def _shake(self, base: int) -> None:
        read = self.engine.read(self.session, self._scratch.address, [(base, 1)])
        while (fate := read.poll()) is Fate.FLYING and self._why is None:
            time.sleep(HANDSHAKE_LOOK_S)
        if fate is not Fate.LANDED:
            self._why = self._why or f"engine {self.engine_id} is gone or unreachable at {self.session}"
        self._shaken.set()


def _parse(address: dict[str, Any]) -> tuple[str, str, int]:
    try:
        engine_id, session, base = address["engine_id"], address["session"], address["base"]
    except (KeyError, TypeError) as error:
        raise TransferError(f"malformed mooncake address: {error!r}") from error
    if not (isinstance(engine_id, str) and isinstance(session, str) and isinstance(base, int)):
        raise TransferError("malformed mooncake address")
    if not SESSION.fullmatch(session) or base <= 0:
        raise TransferError(f"malformed mooncake address: {session!r} is no HOST:PORT")
    return engine_id, session, base


MOONCAKE = Transport("mooncake", MooncakeSource, MooncakeReader)
