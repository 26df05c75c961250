"""Image tickets that are out: which entry of the embedding pool each keeps, for how long, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from tercet.core.ids import new_id
from tercet.core.image_ticket import ImageTicket
from tercet.engine.embedding_store import EmbeddingStore
from tercet.engine.lease_ends import LeaseEnds
from tercet.transfer.leases import LeaseTable
from tercet.transfer.server import HandoffServer


class IssuedImages:
    """Used by the engine loop alone."""

    def __init__(
        self,
        engine_id: str,
        rank: int,
        store: EmbeddingStore,
        server: HandoffServer,
        leases: LeaseTable,
        lease_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine_id = engine_id
        self._rank, self._store, self._server, self._leases = rank, store, server, leases
        self._lease_s, self._wall_clock = lease_s, wall_clock
        self._key_of: dict[str, str] = {}
        self._ends = LeaseEnds()
        self.handoffs = {"accepted": 0, "released": 0, "expired": 0}
        """How tickets ended, counted from the start."""

    def __len__(self) -> int:
        return len(self._key_of)

    def issue(self, key: str, readers: int, now: float) -> ImageTicket:
        """Return a ticket for a picture whose embeddings are here; the caller has checked that it can be leased."""
        entry = self._store.pool.lease(key)
        ticket = ImageTicket(
            id=new_id("image"),
            key=key,
            engine_id=self.engine_id,
            rank=self._rank,
            fingerprint=self._store.layout.fingerprint,
            tokens=entry.tokens,
            block_ids=entry.blocks,
            control=self._server.control,
            addresses=self._server.addresses,
            lease_s=self._lease_s,
            expires_at=self._wall_clock() + self._lease_s,
        )
        self._leases.grant(ticket.id, ticket.block_ids, now + self._lease_s, readers)
        self._ends.set(ticket.id, now + self._lease_s)
        self._key_of[ticket.id] = key
        return ticket

    def is_out(self, ticket: ImageTicket) -> bool:
        """Return whether a ticket of this engine can still be read under, and is for the picture that it names: it came
        back through other hands."""
        return self._key_of.get(ticket.id) == ticket.key and self._leases.blocks(ticket.id) is not None

    def take_share(self, ticket_id: str) -> None:
        """End one reader's share: a sequence of this engine uses the entry in place."""
        self._leases.release(ticket_id, True)

    def release(self, ticket_id: str) -> None:
        """End a lease for all its readers; unknown tickets are ignored. `settle` then frees the entry."""
        self._leases.release(ticket_id, False, all_readers=True)

    def settle(self, now: float) -> None:
        """Take note of what readers did to their leases, and end those that ran out."""
        for event in self._leases.drain():
            if event.ticket_id not in self._key_of:
                continue
            if event.until is not None:
                self._ends.set(event.ticket_id, event.until)
            else:
                self._end(event.ticket_id, "accepted" if event.accepted else "released")
        # Revoked before the blocks can be anybody else's: a reader that commits later is told that it came too late.
        for ticket_id in self._ends.pop_ended(now):
            self._leases.revoke(ticket_id)
            self._end(ticket_id, "expired")

    def next_deadline(self) -> float | None:
        """Return when the next lease ends."""
        return self._ends.next()

    def _end(self, ticket_id: str, how: str) -> None:
        self._ends.remove(ticket_id)
        self.handoffs[how] += 1
        self._store.pool.unlease(self._key_of.pop(ticket_id))
