"""The prefill side's tickets: which sequence each stands for, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from tercet.core.ids import new_id
from tercet.core.image import ImageInput
from tercet.core.sampling import SampledToken
from tercet.core.ticket import Ticket
from tercet.engine.executor import KVLayout
from tercet.engine.scheduler import Scheduler
from tercet.engine.sequence import Sequence
from tercet.transfer.leases import LeaseTable
from tercet.transfer.server import HandoffServer


class IssuedTickets:
    """Tickets that are out, one per held sequence. Used by the engine loop alone."""

    def __init__(
        self,
        engine_id: str,
        rank: int,
        layout: KVLayout,
        server: HandoffServer,
        leases: LeaseTable,
        lease_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine_id, self._rank, self._layout = engine_id, rank, layout
        self._server, self._leases, self._lease_s, self._wall_clock = server, leases, lease_s, wall_clock
        self._ticket_of: dict[str, str] = {}
        self._sequence_of: dict[str, str] = {}
        self.handoffs = {"accepted": 0, "released": 0, "expired": 0}
        """How tickets ended, counted from the start."""

    def __len__(self) -> int:
        return len(self._ticket_of)

    def issue(self, sequence: Sequence, first: SampledToken, now: float, images: tuple[ImageInput, ...] = ()) -> Ticket:
        """Return the ticket of a sequence that is held since `now`; its blocks may be read from here on.

        `images` are its pictures, as a reader gets them who has to recompute.
        """
        blocks = -(-sequence.prompt_len // self._layout.block_size)
        ticket = Ticket(
            id=new_id("ticket"),
            engine_id=self._engine_id,
            rank=self._rank,
            fingerprint=self._layout.fingerprint,
            block_size=self._layout.block_size,
            token_ids=tuple(sequence.tokens[: sequence.prompt_len]),
            block_ids=tuple(sequence.blocks[:blocks]),
            first=first,
            seed=sequence.sampling.seed,
            control=self._server.control,
            addresses=self._server.addresses,
            lease_s=self._lease_s,
            expires_at=self._wall_clock() + self._lease_s,
            images=images,
            cached_tokens=sequence.cached_tokens,
        )
        self._leases.grant(ticket.id, ticket.block_ids, now + self._lease_s)
        self._ticket_of[sequence.id] = ticket.id
        self._sequence_of[ticket.id] = sequence.id
        return ticket

    def release(self, ticket_id: str) -> None:
        """End a lease because nobody wants the blocks; `settle` then frees them. Unknown tickets are ignored."""
        self._leases.release(ticket_id, False)

    def settle(self, scheduler: Scheduler, now: float) -> None:
        """Tell the scheduler what readers did to their leases, and end those that ran out."""
        if not self._ticket_of:
            return
        for event in self._leases.drain():
            sequence_id = self._sequence_of.get(event.ticket_id)
            if sequence_id is None:
                continue
            if event.until is not None:
                scheduler.renew(sequence_id, event.until)
            elif scheduler.release(sequence_id):
                self.handoffs["accepted" if event.accepted else "released"] += 1
                self._forget(sequence_id)
        # Revoked before anybody can be given the blocks: a reader that commits later is told that it came too late.
        for sequence in scheduler.expire(now):
            self.handoffs["expired"] += 1
            self._forget(sequence.id)

    def _forget(self, sequence_id: str) -> None:
        ticket_id = self._ticket_of.pop(sequence_id)
        del self._sequence_of[ticket_id]
        self._leases.revoke(ticket_id)
