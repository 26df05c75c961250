"""`shm`: the reader maps the peer's segment and copies blocks straight out of it. Same host, same user."""

from __future__ import annotations

import mmap
import os
import stat
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import TransferError, UsageError
from tercet.transfer.deadline import Deadline
from tercet.transfer.pool import DATA_OFFSET, NAME, SHM_DIR, Segment, read_header
from tercet.transfer.runs import COPY_STEP, coalesce, copy, cut
from tercet.transfer.transport import Export, Import, Transport


class ShmSource:
    """Exports a pool by telling where its segment is: whoever may open it reads it without our help."""

    name = "shm"

    def __init__(self, export: Export) -> None:
        if export.segment is None:
            raise UsageError("transport shm needs a pool made by SharedPool.create: leave it out, or share the pool")
        self._segment = export.segment

    def address(self) -> dict[str, Any]:
        """Return the segment's name, nonce (hex) and size of the pool in bytes."""
        return {"segment": self._segment.name, "nonce": self._segment.nonce.hex(), "bytes": self._segment.nbytes}

    @property
    def dropped(self) -> Counter[str]:
        """Nothing: a segment gets no messages."""
        return Counter()

    def close(self) -> None:
        """Do nothing: the segment belongs to its pool."""


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A peer's segment, mapped read-only. Unmapped when its last user lets go of it."""

    identity: tuple[int, int]
    segment: Segment
    memory: memoryview


class ShmReader:
    """Copies blocks out of mapped segments. Thread-safe; a mapping is kept while the peer's file is the same."""

    name = "shm"

    def __init__(self, setting: Import) -> None:
        self._lock = threading.Lock()
        self._mappings: dict[str, _Mapping] = {}

    def unreachable(self, address: dict[str, Any]) -> str | None:
        """Return why the segment is not the one of the address or not on this host, or None."""
        try:
            self._mapping(address)
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
        source = self._mapping(address).memory
        for run in cut(coalesce(remote, local, block_bytes), COPY_STEP):
            deadline.check("copying from shared memory")
            copy(pool[run.target : run.target + run.nbytes], source[run.source : run.source + run.nbytes])

    def close(self) -> None:
        """Forget every mapping."""
        with self._lock:
            self._mappings.clear()

    def _mapping(self, address: dict[str, Any]) -> _Mapping:
        try:
            name, nonce, nbytes = str(address["segment"]), bytes.fromhex(address["nonce"]), int(address["bytes"])
        except (KeyError, TypeError, ValueError) as error:
            raise TransferError(f"malformed shm address: {error!r}") from error
        if not NAME.fullmatch(name):
            raise TransferError(f"{name!r} is not the name of a segment")
        wanted = Segment(name, nonce, nbytes)
        with self._lock:
            found = self._mappings.get(name)
            if found is None or found.identity != _identity(name):
                self._forget_gone()
                found = self._mappings[name] = _map(name)
        if found.segment != wanted:
            raise TransferError(f"segment {name} is not the one of this ticket: another host's, or its owner restarted")
        return found

    def _forget_gone(self) -> None:
        # A mapping keeps a dead peer's memory: let go of all whose file is no longer there, or is another.
        self._mappings = {name: found for name, found in self._mappings.items() if found.identity == _identity(name)}


def _identity(name: str) -> tuple[int, int] | None:
    try:
        there = os.stat(SHM_DIR / name, follow_symlinks=False)
    except OSError:
        return None
    return there.st_dev, there.st_ino


def _map(name: str) -> _Mapping:
    try:
        fd = os.open(SHM_DIR / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise TransferError(f"segment {name} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o600:
            raise TransferError(f"segment {name} is not a private file of this user: mode or owner is wrong")
        header, _ = read_header(fd)
        if header is None or status.st_size != DATA_OFFSET + header.nbytes:
            raise TransferError(f"segment {name} is not complete")
        mapped = mmap.mmap(fd, status.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
    except OSError as error:
        raise TransferError(f"segment {name} cannot be mapped: {error.strerror}") from error
    finally:
        os.close(fd)
    segment = Segment(name, header.nonce, header.nbytes)
    return _Mapping((status.st_dev, status.st_ino), segment, memoryview(mapped)[DATA_OFFSET:])


SHM = Transport("shm", ShmSource, ShmReader)
