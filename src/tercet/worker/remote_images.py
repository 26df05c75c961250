"""Pictures encoded elsewhere: their embeddings are read into the own pool, their leases kept while they may be needed.

A sequence holds its share of each lease for as long as it may have to compute its prompt (again): until it ends, or
hands its KV on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tercet.core.errors import TransferError
from tercet.core.image_ticket import ImageTicket
from tercet.engine.sequence import ImageFetch
from tercet.transfer.client import HandoffClient
from tercet.worker.lease_keeper import LeaseKeeper
from tercet.worker.remote_tickets import FETCH_TIMEOUT_S

log = logging.getLogger(__name__)

FETCH_THREADS = 4


@dataclass(frozen=True, slots=True)
class ImageFetched:
    """A read of embeddings ended: `why` says why they are not here, None when they are."""

    key: str
    why: str | None


class RemoteImages:
    """Image tickets of other engines, held by sequences. Owns its threads; `wake` is called after every fetch.

    Used by the engine loop alone, but for what happens in the threads.
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
        self._held: dict[str, list[ImageTicket]] = {}
        self._holders: dict[str, int] = {}
        self._fetched: deque[ImageFetched] = deque()
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch-image")

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
            self._fetched.append(ImageFetched(fetch.key, "its client left"))
            self._wake()
        else:
            self._threads.submit(self._fetch, ticket, fetch.local)

    def fetched(self) -> list[ImageFetched]:
        """Return the reads that ended since the last call."""
        ended = []
        while self._fetched:
            ended.append(self._fetched.popleft())
        return ended

    def close(self) -> None:
        """End the threads. Reads under way get a TransferError when the client is closed, which is the next step."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- in the fetch threads: nothing here may touch the scheduler ---

    def _fetch(self, ticket: ImageTicket, local: tuple[int, ...]) -> None:
        why = None
        try:
            self._client.fetch(
                ticket, ticket.block_ids, self._pool, local, self._block_bytes, FETCH_TIMEOUT_S, accept=False
            )
        except TransferError as error:
            why = str(error)
        except Exception as error:  # a fault of a transport must not leave a sequence waiting for ever
            log.exception("fetching the embeddings of ticket %s", ticket.id)
            why = repr(error)
        self._fetched.append(ImageFetched(ticket.key, why))
        self._wake()
