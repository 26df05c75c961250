"""Many decode steps at once: what a simulator does between two events."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

from tercet.engine.allocation import Allocation
from tercet.engine.sequence import Sequence

Tokens = Callable[[Sequence, int], Seq[int]]
"""tokens(sequence, k): the next k tokens that the sequence produces."""


def longest_leap(running: Seq[Sequence], allocation: Allocation) -> int:
    """Return how many steps all `running` sequences can decode before one ends, is held, or finds no block."""
    left: list[int] = []
    for sequence in running:  # one pass, as plain as can be: with hundreds of engines none of it is in the CPU's cache
        tokens = len(sequence.tokens)
        if sequence.hold or tokens - sequence.computed != 1:
            return 0
        left.append(sequence.limit - tokens)
    if not left:
        return 0
    longest = min(left) - 1
    available = allocation.pool.available
    at_most = len(left) * (allocation.blocks_for(longest) + 1)
    if at_most <= available or _blocks_needed(running, allocation, longest) <= available:
        return longest
    fits, fails = 0, longest
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _blocks_needed(running, allocation, middle) <= available:
            fits = middle
        else:
            fails = middle
    return fits


def _blocks_needed(running: Seq[Sequence], allocation: Allocation, steps: int) -> int:
    return sum(allocation.blocks_for(s.computed + steps) - len(s.blocks) for s in running)


def leap(running: Seq[Sequence], allocation: Allocation, steps: int, tokens: Tokens) -> None:
    """Commit `steps` decode steps of every sequence; at most `longest_leap`.

    Blocks are taken and entered into the cache in the order in which single steps would do it, so that the pool ends
    up in the very same state. Raises ValueError when a token would end its sequence.
    """
    size = allocation.block_size
    produced = [tokens(sequence, steps) for sequence in running]
    for sequence, new in zip(running, produced, strict=True):
        if len(new) != steps:
            raise ValueError(f"{len(new)} tokens given for {steps} steps of {sequence.id!r}")
        if not sequence.stops.isdisjoint(new):
            raise ValueError(f"{sequence.id!r} would stop within {steps} steps")
    events: list[tuple[int, bool, int]] = []  # (step, whether a block is filled, else taken, index in running)
    for index, (sequence, new) in enumerate(zip(running, produced, strict=True)):
        sequence.tokens.extend(new)
        start = sequence.computed
        end = start + steps
        events += [(p - start, False, index) for p in range(len(sequence.blocks) * size, end, size)]
        events += [(p - start - 1, True, index) for p in range((start // size + 1) * size, end + 1, size)]
    for _, filled, index in sorted(events):
        sequence = running[index]
        if filled:
            allocation.computed(sequence, sequence.computed // size * size + size)
        else:
            allocation.grow(sequence)
    for sequence in running:
        allocation.computed(sequence, len(sequence.tokens) - 1)
