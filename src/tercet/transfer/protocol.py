"""One protocol for every transport: a source exports a pool, a reader copies blocks out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol


class BlockSource(Protocol):
    """The exporting side of one transport (on P). Never blocks the step path."""

    @property
    def name(self) -> str:
        """Return the transport's name: shm, tcp, nixl, mooncake."""
        ...

    def address(self) -> dict[str, Any]:
        """Return what a reader needs to reach the pool; JSON-able, goes into the ticket."""
        ...

    @property
    def dropped(self) -> Counter[str]:
        """Return how many messages were not answered, by reason."""
        ...

    def close(self) -> None:
        """Stop exporting."""
        ...


class BlockReader(Protocol):
    """The importing side of one transport (on D). Called from transfer threads, never from the step path."""

    @property
    def name(self) -> str:
        """Return the transport's name."""
        ...

    def unreachable(self, address: dict[str, Any]) -> str | None:
        """Return why the address can't be reached from here, or None. Cheap: never waits for a peer."""
        ...

    def read(
        self,
        address: dict[str, Any],
        ticket_id: str,
        remote: Sequence[int],
        pool: memoryview,
        local: Sequence[int],
        block_bytes: int,
        timeout_s: float,
    ) -> None:
        """Copy remote blocks into the local pool, pairwise. Raises TransferError on any doubt.

        Block ids are already known to lie inside both pools. Whether the lease outlived the copy is the caller's
        question, asked afterwards.
        """
        ...

    def close(self) -> None:
        """Drop connections and mappings."""
        ...
