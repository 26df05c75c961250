"""The decode side's tickets: their blocks are fetched and their leases kept, all beside the engine's step loop."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tercet.core.errors import TransferError
from tercet.core.ticket import Ticket
from tercet.engine.sequence import Fetch, State
from tercet.transfer.client import HandoffClient

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 30.0
"""A gigabyte through a slow network; that a peer is dead shows much sooner."""
FETCH_THREADS = 4
MAX_PAUSE_S = 10.0
MIN_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetch ended: `why` says why the blocks are not here, None when they are."""

    sequence_id: str
    why: str | None


class RemoteTickets:
    """Tickets of other engines whose blocks this one wants. Owns its threads; `wake` is called after every fetch.

    A renewal or a release takes up to two seconds when its peer is stuck: a keeper thread does them one after the
    other, and leaves the other tickets of such a peer alone for that round.
    """

    def __init__(self, client: HandoffClient, pool: memoryview, block_bytes: int, wake: Callable[[], None]) -> None:
        self._client, self._pool, self._block_bytes, self._wake = client, pool, block_bytes, wake
        self._fetched: deque[Fetched] = deque()
        self._lock = threading.Lock()
        self._waiting: dict[str, Ticket] = {}
        self._unwanted: list[Ticket] = []
        self._stop = threading.Event()
        self._news = threading.Event()
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    def keep(self, sequence_id: str, ticket: Ticket) -> None:
        """Renew a ticket's lease until it is fetched or dropped."""
        with self._lock:
            self._waiting[sequence_id] = ticket
        self._news.set()

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
        with self._lock:
            ticket = self._waiting.pop(sequence_id, None)
            if ticket is not None:
                self._unwanted.append(ticket)
        self._news.set()

    def close(self) -> None:
        """End the threads. Fetches under way get a TransferError when the client is closed, which is the next step."""
        self._stop.set()
        self._news.set()
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
        with self._lock:
            # Not there any more when it was dropped, or its lease found to be over: then there is nothing to release.
            kept = self._waiting.pop(sequence.id, None)
            if why is not None and kept is not None:
                self._unwanted.append(ticket)
        self._fetched.append(Fetched(sequence.id, why))
        self._wake()
        if why is not None:
            self._news.set()

    # --- in the keeper thread ---

    def _keep(self) -> None:
        due = 0.0
        while not self._stop.is_set():
            with self._lock:
                unwanted, self._unwanted = self._unwanted, []
                waiting = dict(self._waiting)
            stuck: set[str] = set()
            for ticket in unwanted:
                self._release(ticket, stuck)
            now = time.monotonic()
            if now >= due:
                for sequence_id, ticket in waiting.items():
                    self._renew(sequence_id, ticket, stuck)
                due = now + _pause(waiting)
            else:
                due = min(due, now + _pause(waiting))
            self._news.wait(max(due - time.monotonic(), MIN_PAUSE_S) if waiting else None)
            self._news.clear()

    def _release(self, ticket: Ticket, stuck: set[str]) -> None:
        if ticket.control in stuck or self._stop.is_set():
            return  # it will expire
        started = time.monotonic()
        if not self._client.release(ticket):
            log.info("ticket %s was over before it could be released", ticket.id)
            if time.monotonic() - started > 1.0:
                stuck.add(ticket.control)

    def _renew(self, sequence_id: str, ticket: Ticket, stuck: set[str]) -> None:
        if ticket.control in stuck or self._stop.is_set():
            return
        try:
            if self._client.renew(ticket):
                return
        except TransferError as error:
            log.warning("ticket %s could not be renewed: %s", ticket.id, error)
            stuck.add(ticket.control)
            return
        with self._lock:
            gone = self._waiting.pop(sequence_id, None)
        if gone is not None:  # else it was fetched meanwhile
            log.info("ticket %s ended before its blocks were read; they will be recomputed", ticket.id)


def _pause(waiting: dict[str, Ticket]) -> float:
    """Return the seconds between two renewals: a third of the shortest lease."""
    shortest = min((ticket.lease_s for ticket in waiting.values()), default=MAX_PAUSE_S)
    return min(max(shortest / 3, MIN_PAUSE_S), MAX_PAUSE_S)
