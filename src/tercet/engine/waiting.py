"""Who waits for room: sequences by order of arrival, and which of them may enter now."""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter

from tercet.engine.allocation import Allocation
from tercet.engine.pictures import Pictures
from tercet.engine.sequence import Sequence, State

_number = attrgetter("number")


def insert_by_arrival(sequences: list[Sequence], sequence: Sequence) -> None:
    """Insert a sequence into a list that is kept in order of arrival."""
    insort(sequences, sequence, key=_number)


def remove_by_arrival(sequences: list[Sequence], sequence: Sequence) -> None:
    """Remove a sequence from a list that is kept in order of arrival."""
    del sequences[bisect_left(sequences, sequence.number, key=_number)]


class WaitingQueue:
    """Sequences without blocks: waiting, waiting for KV from elsewhere (tickets), or preempted."""

    def __init__(self, allocation: Allocation, pictures: Pictures) -> None:
        self._allocation = allocation
        self._pictures = pictures
        self._sequences: list[Sequence] = []
        self._tickets = 0
        # Who found no room last, with the pools' count of frees and the spare blocks then: until one of these
        # changes, looking again (which costs time linear in the prompt's blocks) is in vain.
        self._stuck = (-1, -1, -1)

    def __bool__(self) -> bool:
        return bool(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence at its place by arrival."""
        insert_by_arrival(self._sequences, sequence)
        self._tickets += sequence.state is State.WAITING_REMOTE

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out."""
        remove_by_arrival(self._sequences, sequence)
        self._tickets -= sequence.state is State.WAITING_REMOTE

    def is_stuck(self, spare: int) -> bool:
        """Return whether the head is known to find no room."""
        return self._known_stuck(self._sequences[0], spare)

    def admit(self, seats: int, spare: int, budget: int) -> tuple[list[Sequence], list[Sequence]]:
        """Take out those that may enter now, at most `seats`, and give them blocks; `spare` blocks stay available.

        Also returned, and taken out: those that need pictures they can't get (`missing` says which).

        Strictly by arrival: the first that finds no room ends it. A prompt also needs a token of `budget`; a ticket's
        blocks come from elsewhere, so tickets may pass prompts that wait for budget alone, but never take their room.
        """
        admitted: list[Sequence] = []
        refused: list[Sequence] = []
        for sequence in self._sequences:
            if seats == 0:
                break
            remote = sequence.state is State.WAITING_REMOTE
            length = sequence.prompt_len if remote else len(sequence.tokens)
            if not remote and budget == 0:
                if not self._tickets:
                    break
                spare += self._allocation.blocks_for(length)
            elif self._known_stuck(sequence, spare) or not self._enter(sequence, length, spare):
                if sequence.missing:
                    refused.append(sequence)
                    continue
                self._stuck = (sequence.number, self._frees, spare)
                break
            else:
                admitted.append(sequence)
                if not remote:
                    spare += 1
                    if not self._pictures.waits(sequence):
                        budget -= min(budget, length - sequence.computed)
            seats -= 1
        for sequence in admitted + refused:
            self.remove(sequence)
        return admitted, refused

    def _enter(self, sequence: Sequence, length: int, spare: int) -> bool:
        """Give a sequence its blocks and check that its pictures can be had; False when there is no room or no way."""
        if not sequence.images or sequence.state is State.WAITING_REMOTE:
            return self._allocation.admit(sequence, length, spare)
        cached = self._allocation.cached(sequence)
        sequence.missing = self._pictures.out_of_reach(sequence, cached)
        if sequence.missing or not self._pictures.has_room(sequence, cached):
            return False
        if not self._allocation.admit(sequence, length, spare):
            return False
        self._pictures.take(sequence, cached)
        return True

    @property
    def _frees(self) -> int:
        return self._allocation.pool.frees + self._pictures.frees

    def _known_stuck(self, sequence: Sequence, spare: int) -> bool:
        return self._stuck == (sequence.number, self._frees, spare)
