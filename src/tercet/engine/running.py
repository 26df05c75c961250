"""Who runs: sequences with blocks, by order of arrival, and whose blocks are taken when there are none left."""

from __future__ import annotations

from tercet.engine.allocation import Allocation
from tercet.engine.lockstep import Lockstep, Tokens
from tercet.engine.pictures import Pictures
from tercet.engine.sequence import Chunk, Sequence, State
from tercet.engine.waiting import WaitingQueue, insert_by_arrival, remove_by_arrival


class RunningSequences:
    """Sequences that compute or decode. Those that are preempted go back into `queue`."""

    def __init__(self, allocation: Allocation, pictures: Pictures, queue: WaitingQueue, tokens: Tokens) -> None:
        self.sequences: list[Sequence] = []
        self.lockstep = Lockstep(allocation, tokens)
        self.preemptions = 0
        self._allocation, self._pictures, self._queue = allocation, pictures, queue

    def __len__(self) -> int:
        return len(self.sequences)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence run."""
        sequence.state = State.RUNNING
        insert_by_arrival(self.sequences, sequence)
        self.lockstep.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Note that a sequence runs no longer."""
        remove_by_arrival(self.sequences, sequence)
        self.lockstep.remove(sequence)

    def decodes(self) -> tuple[list[Chunk], list[Sequence]]:
        """Return the decode chunks, and the running sequences with more than one token to compute."""
        self.lockstep.end()
        running, size = self.sequences, self._allocation.block_size
        chunks: list[Chunk] = []
        prompts: list[Sequence] = []
        index = 0
        while index < len(running):
            sequence = running[index]
            start = sequence.computed
            if len(sequence.tokens) - start > 1:
                prompts.append(sequence)
            else:
                if start == len(sequence.blocks) * size and not self._grow(sequence):
                    break
                chunks.append(Chunk(sequence, start, 1, True))
            index += 1
        return chunks, prompts

    def begin_round(self) -> list[Sequence]:
        """Make room for a round of decodes; return the running sequences with more than one token to compute."""
        prompts = self.lockstep.begin(self.sequences)
        for sequence in self.lockstep.growing():
            if not self._grow(sequence):
                break
        return prompts

    def _grow(self, sequence: Sequence) -> bool:
        """Give a sequence one more block, if need be a later one's; False when it had to give up its own."""
        while sequence.state is State.RUNNING and self._allocation.pool.available == 0:
            self._preempt_last()
        if sequence.state is not State.RUNNING:
            return False
        self._allocation.grow(sequence)
        return True

    def _preempt_last(self) -> None:
        """Take the blocks of the latest arrival; it keeps its tokens and computes them again later."""
        sequence = self.sequences.pop()
        self.lockstep.remove(sequence)
        self._allocation.free(sequence)
        self._pictures.unpin(sequence)
        sequence.state = State.PREEMPTED
        sequence.preemptions += 1
        self.preemptions += 1
        self._queue.add(sequence)
