"""Memory where a library's remote reads land before the pool gets their bytes.

NIXL and Mooncake can't take a read back: one that a frozen peer answers after its deadline still writes, and by then
the pool's blocks belong to somebody else. So these libraries never see the pool of the reading side. They write into
buffers of this module, a piece goes to the pool when all of it has come, and the buffer of a read that was given up is
not used again before the library is done with it.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Protocol

import numpy as np

from tercet.core.errors import TransferError
from tercet.transfer.deadline import Deadline
from tercet.transfer.runs import Run, copy, pieces

BUFFER_BYTES = 2 << 20
"""A piece: it is still in the cache when it is copied to the pool."""
MAX_RUNS = 256
MAX_BUFFERS = 64
IN_FLIGHT = 2
EAGER_POLLS = 50
FIRST_PAUSE_S, LONGEST_PAUSE_S = 50e-6, 1e-3
GRACE_S = 1.0
CLOSE_TIMEOUT_S = 5.0


class PeerGone(TransferError):
    """A read failed: what the library knows of its peer is of no more use."""


class Fate(Enum):
    """What became of a remote read. The library may write into the buffer of one that is FLYING, or LOST."""

    FLYING = "flying"
    LANDED = "landed"
    FAILED = "failed"
    LOST = "lost"


class Flight(Protocol):
    """One remote read under way."""

    def poll(self) -> Fate:
        """Return its fate; never waits. Once it is another than FLYING it stays that."""
        ...


class Buffer:
    """BUFFER_BYTES of memory of our own; pages cost nothing before they are written."""

    def __init__(self) -> None:
        self.memory = memoryview(mmap.mmap(-1, BUFFER_BYTES))
        self.address = int(np.frombuffer(self.memory, np.uint8).ctypes.data)


class Landing:
    """Buffers, lent for one piece each. Thread-safe. `prepare` is called with every new one, before its first use."""

    def __init__(self, prepare: Callable[[Buffer], None] = lambda buffer: None) -> None:
        self._prepare = prepare
        self._lock = threading.Condition()
        self._idle: list[Buffer] = []
        self._given_up: list[tuple[str, Buffer, Flight]] = []
        self._made = 0
        self._readers = 0
        self._closed = False

    def read(
        self,
        peer: str,
        runs: Iterable[Run],
        pool: memoryview,
        deadline: Deadline,
        start: Callable[[Buffer, list[Run]], Flight],
    ) -> None:
        """Move `runs` into `pool`. `start` begins to read the runs of one piece, one after the other, into a buffer.

        Raises PeerGone when a read failed; TransferError: the deadline, this landing is closed, or `peer` did not
        answer an earlier read in time and for another second: what hangs is not asked again and again, so it can't use
        up the buffers.
        """
        todo = pieces(runs, BUFFER_BYTES, MAX_RUNS)
        under_way: deque[tuple[list[Run], Buffer, Flight]] = deque()
        self._enter(peer, deadline)
        try:
            while True:
                while len(under_way) < IN_FLIGHT and (piece := next(todo, None)):
                    _in_time(peer, deadline)
                    buffer = self._take(peer)
                    try:
                        flight = start(buffer, piece)
                    except BaseException:
                        self._give_back(buffer)
                        raise
                    under_way.append((piece, buffer, flight))
                if not under_way:
                    return
                piece, buffer, flight = under_way[0]
                self._wait(peer, flight, deadline)
                _place(piece, buffer, pool)
                under_way.popleft()
                self._give_back(buffer)
        finally:
            with self._lock:
                self._given_up += [(peer, buffer, flight) for _, buffer, flight in under_way]
                self._readers -= 1
                self._lock.notify_all()

    def close(self) -> bool:
        """End all reads, with a TransferError where they are; return whether no thread is inside any more."""
        with self._lock:
            self._closed = True
            return self._lock.wait_for(lambda: not self._readers, CLOSE_TIMEOUT_S)

    def _enter(self, peer: str, deadline: Deadline) -> None:
        patience = Deadline.after(min(GRACE_S, deadline.remaining_s))
        while True:
            with self._lock:
                if self._closed:
                    raise TransferError("this handoff client is closed")
                self._sort_given_up()
                if not any(other == peer for other, _, _ in self._given_up):
                    self._readers += 1
                    return
            patience.check(f"{peer} did not answer in time, nor an earlier read: it hangs, or the way to it is cut")
            time.sleep(LONGEST_PAUSE_S)

    def _take(self, peer: str) -> Buffer:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._made == MAX_BUFFERS:
                raise TransferError(f"{peer}: {MAX_BUFFERS} buffers are taken by reads that nobody answers")
            self._made += 1
        try:
            buffer = Buffer()
            self._prepare(buffer)
        except BaseException:
            with self._lock:
                self._made -= 1
            raise
        return buffer

    def _give_back(self, buffer: Buffer) -> None:
        with self._lock:
            self._idle.append(buffer)

    def _sort_given_up(self) -> None:
        still: list[tuple[str, Buffer, Flight]] = []
        for peer, buffer, flight in self._given_up:
            fate = flight.poll()
            if fate is Fate.FLYING:
                still.append((peer, buffer, flight))
            elif fate is Fate.LOST:
                still.append(("", buffer, flight))  # nobody's any more: kept, for the library may yet write there
            else:
                self._idle.append(buffer)
        self._given_up = still

    def _wait(self, peer: str, flight: Flight, deadline: Deadline) -> None:
        polls, pause_s = 0, FIRST_PAUSE_S
        while (fate := flight.poll()) is Fate.FLYING:
            if self._closed:
                raise TransferError("this handoff client is closed")
            _in_time(peer, deadline)
            polls += 1
            if polls > EAGER_POLLS:
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                time.sleep(0)
        if fate is not Fate.LANDED:
            raise PeerGone(f"{peer} is gone, or refused the read: reading its memory failed")


def _in_time(peer: str, deadline: Deadline) -> None:
    if not deadline.remaining_s:
        raise TransferError(f"{peer} did not answer in time")


def _place(piece: list[Run], buffer: Buffer, pool: memoryview) -> None:
    offset = 0
    for run in piece:
        copy(pool[run.target : run.target + run.nbytes], buffer.memory[offset : offset + run.nbytes])
        offset += run.nbytes
