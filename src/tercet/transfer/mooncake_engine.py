"""Mooncake transfer engines. The library is loaded when the first one is made."""

from __future__ import annotations

import os
import threading
from types import ModuleType
from typing import Any

from tercet.core.errors import TransferError, UsageError
from tercet.transfer.landing import Fate
from tercet.transfer.optional import require

MAX_ENGINES = 32
_NO_BATCH = (0, -1, (1 << 64) - 1)
_LANDED, _FAILED = 1, -1


class Engine:
    """One transfer engine. Thread-safe, but a call about a new peer keeps all others waiting."""

    def __init__(self, host: str) -> None:
        self._engine: Any = _load().TransferEngine()
        if self._engine.initialize(host, "P2PHANDSHAKE", "tcp", "") != 0:
            raise UsageError(f"transport mooncake cannot start on {host}: its log says why")
        self.sessions: set[str] = set()
        """The peers that it was told about, and keeps what it learnt of."""
        self._lock = threading.Lock()
        self._under_way = 0

    @property
    def port(self) -> int:
        """Return where it shakes hands."""
        return int(self._engine.get_rpc_port())

    @property
    def busy(self) -> bool:
        """Return whether a thread is in a read's beginning, or a read is FLYING."""
        with self._lock:
            return self._under_way > 0

    def register(self, base: int, nbytes: int) -> None:
        """Export memory; keep it mapped until `close`."""
        if self._engine.register_memory(base, nbytes) != 0:
            raise UsageError(f"mooncake cannot register {nbytes >> 20} MiB of memory: its log says why")

    def read(self, session: str, into: int, runs: list[tuple[int, int]]) -> Read:
        """Begin to read (address, bytes) pairs of a peer, one after the other into local address `into`."""
        with self._lock:
            self._under_way += 1
            self.sessions.add(session)
        batches: list[int] = []
        failed = False
        for address, nbytes in runs:
            # A batch of its own for each: of a batch, the library tells the first one's fate only.
            batch = self._engine.batch_transfer_async_read(session, [into], [address], [nbytes])
            into += nbytes
            if batch in _NO_BATCH:
                failed = True
                break
            batches.append(batch)
        return Read(self, batches, failed)

    def status(self, batch: int) -> int:
        """Return 1 when a batch has landed, -1 when it has failed, anything else while it flies."""
        return int(self._engine.transfer_check_status(batch))

    def ended(self) -> None:
        """Take note that a read is not FLYING any more."""
        with self._lock:
            self._under_way -= 1

    def close(self) -> None:
        """End the engine. Its destructor joins its threads and keeps the interpreter for about a second."""
        self._engine = None


class Read:
    """A remote read under way: a Flight. It has ended when all of its batches have: till then they write."""

    def __init__(self, engine: Engine, batches: list[int], failed: bool) -> None:
        self._engine, self._batches, self._failed = engine, batches, failed
        self._lock = threading.Lock()
        self._fate = Fate.FLYING

    def poll(self) -> Fate:
        """Return what became of it."""
        with self._lock:
            if self._fate is not Fate.FLYING:
                return self._fate
            while self._batches:
                status = self._engine.status(self._batches[-1])
                if status not in (_LANDED, _FAILED):
                    return Fate.FLYING
                self._failed |= status == _FAILED
                self._batches.pop()  # freed by the library: not to be asked about again
            self._fate = Fate.FAILED if self._failed else Fate.LANDED
            self._engine.ended()
            return self._fate


class Engines:
    """The reading side's engines, one for each peer. Those not in use are kept: to end one stops the interpreter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = [Engine("127.0.0.1")]  # now, not in the first read: loading the library stops the interpreter
        self._made = 1

    def take(self, session: str) -> Engine:
        """Return an engine that never heard of the peer at `session`: what one knows of a peer it never unlearns."""
        with self._lock:
            for engine in self._idle:
                if not engine.busy and session not in engine.sessions:
                    self._idle.remove(engine)
                    return engine
            if self._made >= MAX_ENGINES:
                worn = next((engine for engine in self._idle if not engine.busy), None)
                if worn is None:
                    raise TransferError(f"{MAX_ENGINES} mooncake engines wait for peers that don't answer")
                self._idle.remove(worn)
                worn.close()
                self._made -= 1
            self._made += 1
        try:
            return Engine("127.0.0.1")
        except UsageError as error:
            with self._lock:
                self._made -= 1
            raise TransferError(str(error)) from error

    def give_back(self, engine: Engine) -> None:
        """Take an engine back; it may still be busy."""
        with self._lock:
            self._idle.append(engine)

    def close(self) -> None:
        """End those that are idle. Busy ones wait for a peer in the library, and end with this process."""
        with self._lock:
            idle, self._idle = self._idle, []
        for engine in idle:
            if not engine.busy:
                engine.close()


def _load() -> ModuleType:
    require("mooncake")
    os.environ.setdefault("MC_LOG_LEVEL", "ERROR")
    try:
        from mooncake import engine
    except ImportError as error:
        raise UsageError(f"transport mooncake: the library cannot be loaded: {error}") from error
    library: ModuleType = engine
    return library
