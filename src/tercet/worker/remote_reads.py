"""Reads from other engines' pools, in threads of their own beside the engine's step loop."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from tercet.core.errors import TransferError
from tercet.core.image_ticket import ImageTicket
from tercet.core.ticket import Ticket
from tercet.transfer.client import HandoffClient

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 30.0
"""A gigabyte through a slow network; that a peer is dead shows much sooner."""
READ_THREADS = 4

E = TypeVar("E")
"""What says that a read ended."""


class RemoteReads(Generic[E]):
    """Reads into one pool. Owns its threads; `wake` is called after every read.

    Used by the engine loop alone, but for the callbacks of `start`, which run in the threads.
    """

    def __init__(
        self, client: HandoffClient, pool: memoryview, block_bytes: int, wake: Callable[[], None], name: str
    ) -> None:
        self._client, self._pool, self._block_bytes, self._wake = client, pool, block_bytes, wake
        self._ended: deque[E] = deque()
        self._threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix=name)

    def start(
        self,
        ticket: Ticket | ImageTicket,
        remote: Sequence[int],
        local: Sequence[int],
        ended: Callable[[str | None], E],
        *,
        accept: bool = True,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Read blocks `remote` of the ticket into blocks `local`; `wanted` is asked just before.

        `ended` makes what `ended()` returns of the reason why the blocks are not here, or None. Both run in a thread
        and must not touch the scheduler.
        """
        self._threads.submit(self._read, ticket, remote, local, ended, accept, wanted)

    def end(self, ended: E) -> None:
        """Count a read as ended that need not begin."""
        self._ended.append(ended)
        self._wake()

    def ended(self) -> list[E]:
        """Return the reads that ended since the last call."""
        ended = []
        while self._ended:
            ended.append(self._ended.popleft())
        return ended

    def close(self) -> None:
        """End the threads. Reads under way get a TransferError when the client is closed, which is the next step."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(
        self,
        ticket: Ticket | ImageTicket,
        remote: Sequence[int],
        local: Sequence[int],
        ended: Callable[[str | None], E],
        accept: bool,
        wanted: Callable[[], bool],
    ) -> None:
        why = None
        try:
            if not wanted():
                raise TransferError("its client left")
            self._client.fetch(ticket, remote, self._pool, local, self._block_bytes, READ_TIMEOUT_S, accept=accept)
        except TransferError as error:
            why = str(error)
        except Exception as error:  # a fault of a transport must not leave a sequence waiting for ever
            log.exception("reading the blocks of ticket %s", ticket.id)
            why = repr(error)
        self.end(ended(why))
