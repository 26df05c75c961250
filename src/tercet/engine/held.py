"""Held sequences: prefilled, ticket out, blocks kept until they are released or the lease runs out."""

from __future__ import annotations

from tercet.engine.lease_ends import LeaseEnds
from tercet.engine.sequence import Sequence


class HeldSequences:
    """Held sequences by id, their leases by end, and how many distinct blocks they keep."""

    def __init__(self) -> None:
        self._sequences: dict[str, Sequence] = {}
        self._holders: dict[int, int] = {}
        self._ends = LeaseEnds()

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def blocks(self) -> int:
        """Distinct blocks kept."""
        return len(self._holders)

    def add(self, sequence: Sequence, until: float) -> None:
        """Hold a sequence until `until`."""
        self._sequences[sequence.id] = sequence
        for block in sequence.blocks:
            self._holders[block] = self._holders.get(block, 0) + 1
        self._lease(sequence, until)

    def renew(self, sequence_id: str, until: float) -> bool:
        """Move a lease's end; False when the sequence is not held."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            return False
        self._lease(sequence, until)
        return True

    def remove(self, sequence_id: str) -> Sequence | None:
        """Hold a sequence no longer and return it; None when it was not held."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return None
        sequence.lease_until = None
        self._ends.remove(sequence_id)
        for block in sequence.blocks:
            self._holders[block] -= 1
            if self._holders[block] == 0:
                del self._holders[block]
        return sequence

    def remove_expired(self, now: float) -> list[Sequence]:
        """Remove and return the sequences whose lease ended at `now` or before."""
        expired = [self.remove(sequence_id) for sequence_id in self._ends.pop_ended(now)]
        return [sequence for sequence in expired if sequence is not None]

    def next_end(self) -> float | None:
        """Return when the next lease ends."""
        return self._ends.next()

    def _lease(self, sequence: Sequence, until: float) -> None:
        sequence.lease_until = until
        self._ends.set(sequence.id, until)
