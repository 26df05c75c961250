"""One NIXL agent with its UCX backend. The library is loaded when the first one is made.

This uses the library's bindings and not its `nixl_agent`, whose progress thread wakes a thousand times a second (a
quarter of a core) and which takes over the logging of the process.
"""

from __future__ import annotations

import logging
import os
import threading
from types import ModuleType
from typing import Any

import numpy as np

from tercet.core.errors import UsageError
from tercet.transfer.landing import Buffer, Fate
from tercet.transfer.optional import has_rdma, is_loopback, require

log = logging.getLogger(__name__)

PROGRESS_PAUSE_US = 20_000
"""How long UCX's thread sleeps at most; what comes in wakes it."""


class AgentError(Exception):
    """A call to the library failed. Never leaves this package: it becomes a TransferError or a UsageError."""


class Agent:
    """One agent. Thread-safe."""

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self._library = _load()
        self._errors = (RuntimeError, *(each for each in vars(self._library).values() if _is_error(each)))
        # UCX listens on every device it may use: of a worker that only this machine may reach, on no other.
        backend = {"engine_config": "NET_DEVICES=lo"} if is_loopback(host) else {}
        config = self._library.nixlAgentConfig()
        config.useProgThread = True
        config.useListenThread = False
        config.syncMode = self._library.NIXL_THREAD_SYNC_STRICT
        config.pthrDelay = PROGRESS_PAUSE_US
        try:
            self._agent = self._library.nixlAgent(name, config)
            self._agent.createBackend("UCX", backend)
        except self._errors as error:
            raise UsageError(f"transport nixl cannot start: UCX says {error}; see the log for its reason") from error
        self._lock = threading.Lock()
        self._registered: list[tuple[Any, Any]] = []
        self._reads: set[Read] = set()
        self._closed = False

    def register(self, memory: memoryview) -> int:
        """Let the library read and write `memory`, which stays alive until `close`; return where it begins."""
        array = np.frombuffer(memory, np.uint8)
        base = int(array.ctypes.data)
        descriptors = self._descriptors("nixlRegDList", [(base, array.nbytes, 0, "")])
        try:
            self._agent.registerMem(descriptors, [])
        except self._errors as error:
            raise UsageError(f"nixl cannot register {array.nbytes >> 20} MiB of memory: {error}") from error
        with self._lock:
            self._registered.append((descriptors, array))
        return base

    def register_buffer(self, buffer: Buffer) -> None:
        """Let the library write into a landing buffer."""
        self.register(buffer.memory)

    def metadata(self) -> bytes:
        """Return what a reader needs to reach this agent and the memory registered so far."""
        return bytes(self._agent.getLocalMD())

    def meet(self, metadata: bytes) -> str:
        """Make another agent known; return its name. Raises AgentError."""
        try:
            told = self._agent.loadRemoteMD(metadata)
        except self._errors as error:
            raise AgentError(str(error)) from error
        return str(told.decode())

    def forget(self, name: str) -> None:
        """Disconnect from another agent. Reads of it that are FLYING now will be LOST."""
        with self._lock:
            for read in [read for read in self._reads if read.peer == name]:
                self._ask(read)  # while the library still tells: those of a dead agent have FAILED
            try:
                self._agent.invalidateRemoteMD(name)
            except self._errors as error:
                log.info("agent %s was unknown to the library: %s", name, error)

    def read(self, name: str, into: int, runs: list[tuple[int, int]]) -> Read:
        """Begin to read (address, bytes) pairs of a known agent, one after the other into local address `into`.

        On one host this does the whole copy. Raises AgentError when the agent is gone.
        """
        local, at = [], into
        for _, nbytes in runs:
            local.append((at, nbytes, 0))
            at += nbytes
        here = self._descriptors("nixlXferDList", local)
        there = self._descriptors("nixlXferDList", [(address, nbytes, 0) for address, nbytes in runs])
        try:
            handle = self._agent.createXferReq(self._library.NIXL_READ, here, there, name, "", [])
        except self._errors as error:
            raise AgentError(str(error)) from error
        try:
            status = self._agent.postXferReq(handle, "")
        except self._errors as error:
            self._agent.releaseXferReq(handle)
            raise AgentError(str(error)) from error
        read = Read(self, name, handle)
        with self._lock:
            self._reads.add(read)
            self._note(read, status)
        return read

    def ask(self, read: Read) -> None:
        """Find out what became of a read."""
        with self._lock:
            self._ask(read)

    def close(self) -> None:
        """Disconnect, and let go of all memory. No thread may be in another call, nor come later."""
        with self._lock:
            closed, self._closed = self._closed, True
            reads, self._reads = self._reads, set()
        if closed:
            return
        for read in reads:
            self._agent.releaseXferReq(read.handle)
        for descriptors, _ in self._registered:
            self._agent.deregisterMem(descriptors, [])
        del self._agent  # ends its thread; only now is the memory nobody's
        self._registered.clear()

    def _ask(self, read: Read) -> None:
        if read not in self._reads:
            return
        try:
            self._note(read, self._agent.getXferStatus(read.handle))
        except self._library.nixlNotFoundError:
            # Its agent was forgotten meanwhile, so the library doesn't tell any more, and may still write.
            read.fate = Fate.LOST
        except self._errors as error:
            log.info("reading from agent %s failed: %s", read.peer, error)
            self._end(read, Fate.FAILED)

    def _note(self, read: Read, status: Any) -> None:
        if status == self._library.NIXL_SUCCESS:
            self._end(read, Fate.LANDED)

    def _end(self, read: Read, fate: Fate) -> None:
        read.fate = fate
        self._reads.discard(read)
        self._agent.releaseXferReq(read.handle)

    def _descriptors(self, kind: str, rows: list[Any]) -> Any:
        return getattr(self._library, kind)(self._library.DRAM_SEG, rows)


class Read:
    """A remote read under way: a Flight."""

    __slots__ = ("_agent", "fate", "handle", "peer")

    def __init__(self, agent: Agent, peer: str, handle: int) -> None:
        self._agent, self.peer, self.handle = agent, peer, handle
        self.fate = Fate.FLYING

    def poll(self) -> Fate:
        """Return what became of it."""
        if self.fate is Fate.FLYING:
            self._agent.ask(self)
        return self.fate


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)


def _load() -> ModuleType:
    require("nixl")
    if not has_rdma():
        # UCX's RDMA modules bring a second libnl beside the system's, and the two crash when the process exits.
        os.environ.setdefault("UCX_MODULES", "^ib")
    try:
        from nixl import _bindings
    except ImportError as error:
        raise UsageError(f"transport nixl: the library cannot be loaded: {error}") from error
    # It logs to stdout, and every agent that starts.
    logger = logging.getLogger("nixl")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    bindings: ModuleType = _bindings
    return bindings
