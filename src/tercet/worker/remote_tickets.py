"""The decode side's tickets: their blocks are fetched and their leases kept, all beside the engine's step loop."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tercet.core.errors import TransferError
from tercet.core.ticket import Ticket
from tercet.engine.sequence import Fetch, State
from tercet.transfer.client import HandoffClient
from tercet.worker.lease_keeper import LeaseKeeper

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 30.0
"""A gigabyte through a slow network; that a peer is dead shows much sooner."""
FETCH_THREADS = 4


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetch ended: `why` says why the blocks are not here, None when they are."""

    sequence_id: str
    why: str | None


class RemoteTickets:
    """KV tickets of other engines whose blocks this one wants, one a sequence.

    Owns its threads; `wake` is called after every fetch.
    """

    def __init__(
        self,
        client: HandoffClient,
        keeper: LeaseKeeper,
        pool: memoryview,
        block_bytes: int,
        wake: Callable[[], None],
    ) -> None:
        self._client, self._keeper, self._pool, self._block_bytes = client, keeper, pool, block_bytes
        self._wake = wake
        self._fetched: deque[Fetched] = deque()
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")

    def keep(self, sequence_id: str, ticket: Ticket) -> None:
        """Renew a ticket's lease until it is fetched or dropped."""
        self._keeper.keep(sequence_id, ticket)

    def fetch(self, fetch: Fetch) -> None:
        """Start a remote read; its end is found in `fetched`."""
        self._threads.submit(self._fetch, fetch)

    def fetched(self) -> list[Fetched]:
        """Return the fetches that ended since the last call."""
        ended = []
        while self._fetched:
            ended.append(self._fetched.popleft())
        return ended

    def drop(self, sequence_id: str) -> None:
        """Release the ticket of a sequence that was cancelled, if its blocks are not here yet."""
        self._keeper.release(sequence_id)

    def close(self) -> None:
        """End the threads. Fetches under way get a TransferError when the client is closed, which is the next step."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- in the fetch threads: nothing here may touch the scheduler ---

    def _fetch(self, fetch: Fetch) -> None:
        sequence = fetch.sequence
        ticket = sequence.ticket
        assert ticket is not None
        why = None
        try:
            if sequence.state is State.DONE:
                raise TransferError("its client left")
            self._client.fetch(ticket, fetch.remote, self._pool, fetch.local, self._block_bytes, FETCH_TIMEOUT_S)
        except TransferError as error:
            why = str(error)
        except Exception as error:  # a fault of a transport must not leave the sequence waiting for ever
            log.exception("fetching ticket %s", ticket.id)
            why = repr(error)
        # Not kept any more when it was dropped, or its lease found to be over: then there is nothing to release.
        if why is None:
            self._keeper.forget(sequence.id)
        else:
            self._keeper.release(sequence.id)
        self._fetched.append(Fetched(sequence.id, why))
        self._wake()
