"""Sequences that decode in step: for a simulator, that need not see each of them in each step."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from collections.abc import Sequence as Seq
from operator import attrgetter
from typing import NamedTuple

from tercet.engine.allocation import Allocation
from tercet.engine.sequence import Sequence
from tercet.engine.waiting import insert_by_arrival, remove_by_arrival

Tokens = Callable[[Sequence, int], Seq[int]]
"""tokens(sequence, k): the next k tokens that the sequence produces."""


def zeros(sequence: Sequence, k: int) -> list[int]:
    """Return tokens at which nobody looks."""
    return [0] * k


class _Member(NamedTuple):
    """After `round` rounds, `base + round` tokens of the sequence are computed; round `due` ends or begins its answer.

    Ordered as the steps of one round go: by arrival.
    """

    due: int
    number: int
    base: int
    sequence: Sequence


_number = attrgetter("number")


class Lockstep:
    """Running sequences of which each step computes one token, counted in rounds.

    What a round changes alike for all is changed once. A sequence is looked at when it joins, takes or fills a block,
    answers its first token and leaves; in between its `tokens` and `computed` are behind, until `catch_up`. So a round
    costs what happens in it, however many sequences there are and however far apart in memory they lie.
    """

    def __init__(self, allocation: Allocation, tokens: Tokens) -> None:
        self._others: list[Sequence] | None = None
        """The running sequences that do not take part, by arrival. While None, nobody does: steps are ordinary."""
        self._allocation, self._tokens = allocation, tokens
        self._round = 0
        self._bases = 0  # the sum over all members
        self._members: dict[Sequence, _Member] = {}
        self._by_end: list[_Member] = []
        self._by_block: list[list[_Member]] = [[] for _ in range(allocation.block_size)]
        """By the rounds (modulo the block size) before which a block is full; each by arrival."""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._members

    @property
    def context(self) -> int:
        """The sum of the members' computed tokens."""
        return self._bases + len(self._members) * self._round

    # --- who takes part ---

    def begin(self, running: Seq[Sequence]) -> list[Sequence]:
        """Let those of `running` join that have one token to compute; needed before any round. Return the others."""
        others = self._others = list(running) if self._others is None else self._others
        for sequence in [sequence for sequence in others if len(sequence.tokens) - sequence.computed == 1]:
            remove_by_arrival(others, sequence)
            self._join(sequence)
        return others

    def end(self) -> None:
        """Let all leave: what follows are ordinary steps."""
        if self._others is not None:
            self.catch_up()
            self._others = None
            self._bases = 0
            self._members.clear()
            self._by_end.clear()
            for members in self._by_block:
                members.clear()

    def add(self, sequence: Sequence) -> None:
        """Note that a sequence runs."""
        if self._others is not None:
            insert_by_arrival(self._others, sequence)

    def remove(self, sequence: Sequence) -> None:
        """Note that a sequence runs no longer. It is up to date then."""
        if self._others is None:
            return
        member = self._members.pop(sequence, None)
        if member is None:
            remove_by_arrival(self._others, sequence)
            return
        self._write(member)
        self._bases -= member.base
        del self._by_end[bisect_left(self._by_end, member)]
        remove_from = self._by_block[-member.base % len(self._by_block)]
        del remove_from[bisect_left(remove_from, member.number, key=_number)]

    def _join(self, sequence: Sequence) -> None:
        base = sequence.computed - self._round
        due = sequence.limit - 1 - base if sequence.output_len else self._round + 1
        member = self._members[sequence] = _Member(due, sequence.number, base, sequence)
        self._bases += base
        insort(self._by_end, member)
        insort(self._by_block[-base % len(self._by_block)], member, key=_number)

    # --- rounds ---

    def uneventful(self) -> int:
        """Return how many rounds can pass before a sequence begins or ends its answer, or finds no block."""
        if self._others or not self._by_end:
            return 0
        longest = self._by_end[0].due - self._round - 1
        available = self._allocation.pool.available
        at_most = len(self._members) * (self._allocation.blocks_for(longest) + 1)
        if at_most <= available or self._blocks_needed(longest) <= available:
            return longest
        fits, fails = 0, longest
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if self._blocks_needed(middle) <= available:
                fits = middle
            else:
                fails = middle
        return fits

    def _blocks_needed(self, rounds: int) -> int:
        end, blocks_for = self._round + rounds, self._allocation.blocks_for
        return sum(blocks_for(member.base + end) - len(member.sequence.blocks) for member in self._by_end)

    def growing(self) -> list[Sequence]:
        """Return who needs one more block for the next round, by arrival."""
        size, now = len(self._by_block), self._round
        return [
            member.sequence
            for member in self._by_block[now % size]
            if len(member.sequence.blocks) * size == member.base + now
        ]

    def end_round(self) -> list[Sequence]:
        """Commit a round; return who began or ended its answer with it, by arrival, up to date."""
        self._round = now = self._round + 1
        self._fill(now)
        if not self._by_end or self._by_end[0].due > now:
            return []
        due = self._by_end[: bisect_left(self._by_end, (now + 1,))]
        for member in due:
            self._write(member)
        return [member.sequence for member in due]

    def advance(self, rounds: int) -> None:
        """Commit rounds in a row; at most `uneventful`."""
        size, grow = len(self._by_block), self._allocation.grow
        for now in range(self._round, self._round + rounds):
            if self._by_block[now % size]:
                for sequence in self.growing():
                    grow(sequence)
            self._round = now + 1
            self._fill(now + 1)

    def _fill(self, now: int) -> None:
        """Enter the blocks into the cache that the round before `now` filled."""
        size = len(self._by_block)
        for member in self._by_block[now % size]:
            sequence, computed = member.sequence, member.base + now
            if len(sequence.block_hashes) * size < computed:
                self._write(member)
            self._allocation.computed(sequence, computed)

    def catch_up(self) -> None:
        """Bring all sequences up to date."""
        for member in self._by_end:
            self._write(member)

    def _write(self, member: _Member) -> None:
        """Bring a sequence up to date. Raises ValueError when a token would have ended it."""
        sequence = member.sequence
        computed = member.base + self._round
        missing = computed + 1 - len(sequence.tokens)
        if missing:
            new = self._tokens(sequence, missing)
            if len(new) != missing:
                raise ValueError(f"{len(new)} tokens given for {missing} steps of {sequence.id!r}")
            if not sequence.stops.isdisjoint(new):
                raise ValueError(f"{sequence.id!r} would stop within {missing} steps")
            sequence.tokens.extend(new)
        self._allocation.computed(sequence, computed)
