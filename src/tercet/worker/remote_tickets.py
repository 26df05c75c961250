"""The decode side's tickets: their blocks are fetched and their leases kept, all beside the engine's step loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tercet.core.ticket import Ticket
from tercet.engine.sequence import Fetch, State
from tercet.transfer.client import HandoffClient
from tercet.worker.lease_keeper import LeaseKeeper
from tercet.worker.remote_reads import RemoteReads


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetch ended: `why` says why the blocks are not here, None when they are."""

    sequence_id: str
    why: str | None


class RemoteTickets:
    """KV tickets of other engines whose blocks this one wants, one a sequence.

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
        self._reads: RemoteReads[Fetched] = RemoteReads(client, pool, block_bytes, wake, "fetch")

    def keep(self, sequence_id: str, ticket: Ticket) -> None:
        """Renew a ticket's lease until it is fetched or dropped."""
        self._keeper.keep(sequence_id, ticket)

    def fetch(self, fetch: Fetch) -> None:
        """Start a remote read; its end is found in `fetched`."""
        sequence = fetch.sequence
        assert sequence.ticket is not None

        def ended(why: str | None) -> Fetched:
            # Not kept any more when it was dropped, or its lease found to be over: then there is nothing to release.
            if why is None:
                self._keeper.forget(sequence.id)
            else:
                self._keeper.release(sequence.id)
            return Fetched(sequence.id, why)

        self._reads.start(
            sequence.ticket, fetch.remote, fetch.local, ended, wanted=lambda: sequence.state is not State.DONE
        )

    def fetched(self) -> list[Fetched]:
        """Return the fetches that ended since the last call."""
        return self._reads.ended()

    def drop(self, sequence_id: str) -> None:
        """Release the ticket of a sequence that was cancelled, if its blocks are not here yet."""
        self._keeper.release(sequence_id)

    def close(self) -> None:
        """End the threads. Fetches under way get a TransferError when the client is closed, which is the next step."""
        self._reads.close()
