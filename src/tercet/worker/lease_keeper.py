"""Keeps leases that this engine wants: renews them while they are wanted, releases them when they are not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from tercet.core.errors import TransferError
from tercet.transfer.client import HandoffClient
from tercet.transfer.protocol import BlockTicket

log = logging.getLogger(__name__)

MAX_PAUSE_S = 10.0
MIN_PAUSE_S = 0.05
STUCK_S = 1.0


class LeaseKeeper:
    """Tickets of other engines, each under a name. Owns one thread; thread-safe.

    A renewal or a release takes up to two seconds when its peer is stuck: they are done one after the other, and the
    other tickets of such a peer are left alone for that round.
    """

    def __init__(self, client: HandoffClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._kept: dict[str, BlockTicket] = {}
        self._unwanted: list[BlockTicket] = []
        self._stop = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def keep(self, name: str, ticket: BlockTicket) -> None:
        """Renew a ticket's lease until it is forgotten or released."""
        with self._lock:
            self._kept[name] = ticket
        self._news.set()

    def forget(self, name: str) -> bool:
        """Renew a lease no more; False when it was not kept (any more)."""
        with self._lock:
            return self._kept.pop(name, None) is not None

    def release(self, name: str) -> None:
        """Renew a lease no more, and tell its engine; nothing when it was not kept (any more)."""
        with self._lock:
            ticket = self._kept.pop(name, None)
            if ticket is not None:
                self._unwanted.append(ticket)
        self._news.set()

    def close(self) -> None:
        """End the thread; leases that are still kept run out."""
        self._stop.set()
        self._news.set()

    def _run(self) -> None:
        due = 0.0
        while not self._stop.is_set():
            with self._lock:
                unwanted, self._unwanted = self._unwanted, []
                kept = dict(self._kept)
            stuck: set[str] = set()
            for ticket in unwanted:
                self._release(ticket, stuck)
            now = time.monotonic()
            if now >= due:
                for name, ticket in kept.items():
                    self._renew(name, ticket, stuck)
                due = now + _pause(kept.values())
            else:
                due = min(due, now + _pause(kept.values()))
            self._news.wait(max(due - time.monotonic(), MIN_PAUSE_S) if kept else None)
            self._news.clear()

    def _release(self, ticket: BlockTicket, stuck: set[str]) -> None:
        if ticket.control in stuck or self._stop.is_set():
            return  # it will expire
        started = time.monotonic()
        if not self._client.release(ticket):
            log.debug("ticket %s was over before it could be released", ticket.id)
            if time.monotonic() - started > STUCK_S:
                stuck.add(ticket.control)

    def _renew(self, name: str, ticket: BlockTicket, stuck: set[str]) -> None:
        if ticket.control in stuck or self._stop.is_set():
            return
        try:
            if self._client.renew(ticket):
                return
        except TransferError as error:
            log.warning("ticket %s could not be renewed: %s", ticket.id, error)
            stuck.add(ticket.control)
            return
        if self.forget(name):  # else it was read meanwhile
            log.info("ticket %s ended before its blocks were read", ticket.id)


def _pause(tickets: Iterable[BlockTicket]) -> float:
    """Return the seconds between two renewals: a third of the shortest lease."""
    shortest = min((ticket.lease_s for ticket in tickets), default=MAX_PAUSE_S)
    return min(max(shortest / 3, MIN_PAUSE_S), MAX_PAUSE_S)
