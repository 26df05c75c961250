"""One protocol for every transport: a source exports a pool, a reader copies blocks out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class BlockTicket(Protocol):
    """What tickets over blocks have in common, whatever is in the blocks: KV or embeddings."""

    @property
    def id(self) -> str:
        """Return the ticket's unguessable id."""
        ...

    @property
    def engine_id(self) -> str:
        """Return which engine holds the blocks."""
        ...

    @property
    def block_ids(self) -> Sequence[int]:
        """Return the blocks, in order."""
        ...

    @property
    def control(self) -> str:
        """Return the endpoint of the engine's handoff server for these blocks."""
        ...

    @property
    def addresses(self) -> Mapping[str, dict[str, Any]]:
        """Return what each transport's reader needs to reach them."""
        ...

    @property
    def lease_s(self) -> float:
        """Return the lease's length in seconds."""
        ...


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
