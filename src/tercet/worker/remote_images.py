"""Pictures encoded elsewhere: their embeddings are read into the own pool, their leases kept while they may be needed.

A sequence holds its share of each lease for as long as it may have to compute its prompt (again): until it ends, or
hands its KV on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from tercet.core.image_ticket import ImageTicket
from tercet.engine.sequence import ImageFetch
from tercet.transfer.client import HandoffClient
from tercet.worker.lease_keeper import LeaseKeeper
from tercet.worker.remote_reads import RemoteReads


@dataclass(frozen=True, slots=True)
class ImageFetched:
    """A read of embeddings ended: `why` says why they are not here, None when they are."""

    key: str
    why: str | None


class RemoteImages:
    """Image tickets of other engines, held by sequences.

    Owns the threads that read; `wake` is called after every fetch.
    """

    def __init__(
        self,
        client: HandoffClient,
        keeper: LeaseKeeper,
        pool: memoryview,
        block_bytes: int,
        wake: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self._held: dict[str, list[ImageTicket]] = {}
        self._holders: dict[str, int] = {}
        self._reads: RemoteReads[ImageFetched] = RemoteReads(client, pool, block_bytes, wake, "fetch-image")

    def hold(self, sequence_id: str, tickets: Iterable[ImageTicket]) -> None:
        """Keep these tickets' leases until `let_go`; several sequences may hold the same ticket."""
        held = list({ticket.id: ticket for ticket in tickets}.values())
        for ticket in held:
            self._holders[ticket.id] = self._holders.get(ticket.id, 0) + 1
            self._keeper.keep(ticket.id, ticket)
        if held:
            self._held[sequence_id] = held

    def let_go(self, sequence_id: str) -> None:
        """Release a sequence's tickets."""
        for ticket in self._held.pop(sequence_id, ()):
            self._holders[ticket.id] -= 1
            if self._holders[ticket.id] == 0:
                del self._holders[ticket.id]
                self._keeper.release(ticket.id)

    def fetch(self, fetch: ImageFetch) -> None:
        """Start a read; its end is found in `fetched`."""
        held = self._held.get(fetch.sequence.id, ())
        ticket = next((ticket for ticket in held if ticket.key == fetch.key), None)
        if ticket is None:  # its sequence has ended since
            self._reads.end(ImageFetched(fetch.key, "its client left"))
        else:
            self._reads.start(ticket, ticket.block_ids, fetch.local, partial(ImageFetched, ticket.key), accept=False)

    def fetched(self) -> list[ImageFetched]:
        """Return the reads that ended since the last call."""
        return self._reads.ended()

    def close(self) -> None:
        """End the threads. Reads under way get a TransferError when the client is closed, which is the next step."""
        self._reads.close()
