"""Who may still read which blocks: the prefill side's table of tickets that are out."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_MESSAGES_PER_TICKET = 1 << 18
"""Authenticated messages one ticket may cause: bounds the memory of the replay check (16 bytes each)."""


@dataclass(frozen=True, slots=True)
class LeaseEvent:
    """What happened to a ticket, for the engine loop: a renewal (`until` set), or its end (`until` None).

    `accepted` is True when the last reader has the blocks, False when nobody wants them any more.
    """

    ticket_id: str
    until: float | None
    accepted: bool = False


@dataclass(slots=True)
class _Lease:
    blocks: tuple[int, ...]
    members: frozenset[int]
    until: float
    readers: int
    nonces: set[bytes] = field(default_factory=set)


class LeaseTable:
    """Tickets that are out. Thread-safe: the engine loop grants and revokes, transfer threads renew and release.

    The table has no clock: only the scheduler decides that a lease is over, and tells it by `revoke`, before the blocks
    are used for anything else. So a ticket that is in the table when its reader commits was whole while it was read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[str, _Lease] = {}
        self._renewed: dict[str, float] = {}
        self._released: dict[str, bool] = {}

    def grant(self, ticket_id: str, block_ids: Iterable[int], until: float, readers: int = 1) -> None:
        """Let `block_ids` be read under this ticket; `until` in seconds of the engine's clock.

        The lease ends when each of `readers` has released it.
        """
        blocks = tuple(block_ids)
        with self._lock:
            self._leases[ticket_id] = _Lease(blocks, frozenset(blocks), until, readers)

    def renew(self, ticket_id: str, until: float) -> bool:
        """Prolong a lease, never shorten it. False when the ticket is unknown or gone."""
        with self._lock:
            lease = self._leases.get(ticket_id)
            if lease is None:
                return False
            lease.until = max(lease.until, until)
            self._renewed[ticket_id] = lease.until
            return True

    def release(self, ticket_id: str, accepted: bool, *, all_readers: bool = False) -> bool:
        """End one reader's share of a lease, or everybody's. False when the ticket is unknown or already gone."""
        with self._lock:
            lease = self._leases.get(ticket_id)
            if lease is None:
                return False
            lease.readers -= 1
            if lease.readers > 0 and not all_readers:
                return True
            del self._leases[ticket_id]
            self._renewed.pop(ticket_id, None)
            self._released[ticket_id] = accepted
            return True

    def revoke(self, ticket_id: str) -> None:
        """End a lease from the scheduler's side; causes no event. Call it before the blocks are reused."""
        with self._lock:
            self._leases.pop(ticket_id, None)
            self._renewed.pop(ticket_id, None)

    def blocks(self, ticket_id: str) -> tuple[int, ...] | None:
        """Return the ticket's blocks, or None when it is unknown or gone."""
        with self._lock:
            lease = self._leases.get(ticket_id)
            return None if lease is None else lease.blocks

    def covers(self, ticket_id: str, block_ids: Iterable[int]) -> bool | None:
        """Return whether all these blocks belong to the ticket; None when it is unknown or gone."""
        with self._lock:
            lease = self._leases.get(ticket_id)
            return None if lease is None else lease.members.issuperset(block_ids)

    def first_use(self, ticket_id: str, nonce: bytes) -> bool:
        """Return whether this message is new to a live ticket, and remember it; True for a ticket that is not here.

        This is what makes a replay harmless: while the ticket lives its messages are remembered, and afterwards the
        ticket is unknown and no message about it has an effect.
        """
        with self._lock:
            lease = self._leases.get(ticket_id)
            if lease is None:
                return True
            if nonce in lease.nonces or len(lease.nonces) >= MAX_MESSAGES_PER_TICKET:
                return False
            lease.nonces.add(nonce)
            return True

    def drain(self) -> list[LeaseEvent]:
        """Return renewals and ends since the last call: at most one of either for a ticket."""
        with self._lock:
            renewed, self._renewed = self._renewed, {}
            released, self._released = self._released, {}
        events = [LeaseEvent(ticket_id, until) for ticket_id, until in renewed.items()]
        return events + [LeaseEvent(ticket_id, None, accepted) for ticket_id, accepted in released.items()]

    def __len__(self) -> int:
        """Return how many tickets are out."""
        with self._lock:
            return len(self._leases)
