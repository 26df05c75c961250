"""The scheduler: which tokens are computed next. Pure: no clock, socket, thread or tensor; `now` is passed in.

Order of arrival (of `add`) decides everything: who is admitted, who gets the token budget first, and who is preempted
last. A sequence gets the blocks of its whole prompt when it is admitted, and one more whenever it grows into it.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from tercet.core.errors import RequestError
from tercet.core.sampling import SampledToken
from tercet.engine.allocation import Allocation
from tercet.engine.blocks import BlockPool
from tercet.engine.bounds import check_fit, finish_reason, set_bounds
from tercet.engine.embedding_pool import EmbeddingPool
from tercet.engine.held import HeldSequences
from tercet.engine.limits import SchedulerConfig, SchedulerStats
from tercet.engine.lockstep import Tokens, zeros
from tercet.engine.pictures import Pictures
from tercet.engine.running import RunningSequences
from tercet.engine.sequence import Batch, Chunk, Fetch, Output, Schedule, Sequence, State
from tercet.engine.waiting import WaitingQueue

__all__ = ["Scheduler", "SchedulerConfig", "SchedulerStats"]

_EMPTY = Batch(())


class Scheduler:
    """Owns all sequences of one engine from `add` to their end. Not thread-safe.

    One step at a time: `schedule`, execute its batch, `step_done`; an empty batch needs no `step_done`. Every other
    method may be called in between.

    A simulator, that knows how long answers are, calls `schedule_round` or `advance` instead of `schedule`: what these
    decide and do is the same, but nobody looks at each sequence in each step.
    """

    def __init__(
        self, config: SchedulerConfig, embeddings: EmbeddingPool | None = None, tokens: Tokens = zeros
    ) -> None:
        """`embeddings` keeps pictures; without it (the model does not see) sequences with pictures are refused.
        `tokens` says what sequences produce in rounds; asked late, for many at once."""
        self.config = config
        self._pool = BlockPool(config.num_blocks)
        self._allocation = Allocation(self._pool, config.block_size, config.prefix_caching)
        self._pictures = Pictures(EmbeddingPool(0) if embeddings is None else embeddings)
        self._sequences: dict[str, Sequence] = {}
        self._queue = WaitingQueue(self._allocation, self._pictures)
        self._running = RunningSequences(self._allocation, self._pictures, self._queue, tokens)
        self._aborted: list[Sequence] = []  # in mid-round: its end frees their blocks
        self._fetching: dict[str, Sequence] = {}  # cancelled ones too: a transfer may still write into their blocks
        self._loading: dict[str, Sequence] = {}  # wait for pictures, with blocks that nothing writes yet
        self._held = HeldSequences()
        self._executing: Batch | None = None
        self._added = 0
        self._expirations = 0
        self._remote_recomputes = 0

    @property
    def running(self) -> Seq[Sequence]:
        """The sequences that compute or decode, by arrival: to be read, not kept. In rounds they are behind."""
        return self._running.sequences

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises RequestError when it can never fit or its ticket contradicts it."""
        if sequence.id in self._sequences or sequence.id in self._fetching:
            raise ValueError(f"sequence {sequence.id!r} is already here")
        check_fit(sequence, self.config)
        if not self._pictures.fits(sequence):
            raise RequestError(400, "the pictures need more room than this engine has for a prompt's", code="too_large")
        self._pictures.adopt(sequence)
        set_bounds(sequence, self.config)
        sequence.number = self._added
        sequence.state = State.WAITING if sequence.ticket is None else State.WAITING_REMOTE
        self._added += 1
        self._sequences[sequence.id] = sequence
        self._queue.add(sequence)

    def cancel(self, sequence_id: str) -> Output | None:
        """End a sequence in any state; None when it is unknown.

        Blocks that a running step or transfer may still write, and pictures it may read, are freed when that ends.
        """
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return None
        executing = False
        if self._held.remove(sequence_id) is not None:
            self._allocation.free(sequence)
        elif sequence.state is State.RUNNING:
            executing = self._is_executing(sequence)
            self._running.remove(sequence)
            if not executing:
                self._allocation.free(sequence)
        elif self._loading.pop(sequence_id, None) is not None:
            self._allocation.free(sequence)
        elif sequence_id not in self._fetching:
            self._queue.remove(sequence)
        if not executing:
            self._pictures.end(sequence)
        sequence.state, sequence.finish_reason = State.DONE, "abort"
        return Output(sequence, None, "abort")

    def schedule(self, now: float) -> Schedule:
        """Return the next batch and the remote reads to start; both count as in flight from now on.

        Decodes come first, then prompts under way, then admissions; each by order of arrival, all under one budget.
        """
        self._require_idle()
        return self._plan(*self._running.decodes())

    def schedule_round(self, now: float) -> Schedule:
        """Do as `schedule`, but only count the decodes: they are `batch.decodes`, not among its chunks.

        `step_done` then tells only of those of them whose answer begins or ends. Their tokens are what `tokens` says.
        """
        self._require_idle()
        prompts, lockstep = self._running.begin_round(), self._running.lockstep
        return self._plan([], prompts, len(lockstep), lockstep.context)

    def _require_idle(self) -> None:
        if self._executing is not None:
            raise RuntimeError("the last batch is still executing: call step_done first")

    def _plan(self, chunks: list[Chunk], prompts: Seq[Sequence], decodes: int = 0, context: int = 0) -> Schedule:
        """Add to the decodes, `chunks` and counted ones, what else there is to do."""
        budget = self.config.max_num_batched_tokens - len(chunks) - decodes
        for sequence in prompts:
            if budget == 0:
                break
            budget -= self._prompt_chunk(sequence, budget, chunks)
        fetches: list[Fetch] = []
        refused: list[Output] = []
        if self._queue:
            # A spare block for each that runs to grow into, or who enters would be preempted at once.
            admitted, hopeless = self._queue.admit(self._seats_left(), len(self._running), budget)
            for sequence in admitted:
                if sequence.state is State.WAITING_REMOTE:
                    fetches.append(self._fetch(sequence))
                elif self._pictures.waits(sequence):
                    sequence.state = State.WAITING_REMOTE
                    self._loading[sequence.id] = sequence
                else:
                    self._running.add(sequence)
                    budget -= self._prompt_chunk(sequence, budget, chunks)
            refused = [self._refuse(sequence) for sequence in hopeless]
        batch = Batch(tuple(chunks), decodes, context) if chunks or decodes else _EMPTY
        if batch is not _EMPTY:
            self._executing = batch
        return Schedule(batch, tuple(fetches), self._pictures.due(), tuple(refused))

    def _prompt_chunk(self, sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        start, known = sequence.computed, len(sequence.tokens)
        # After a failed fetch the first token may lie beyond the prompt's blocks: it then decodes, which grows.
        length = min(budget, known - start, len(sequence.blocks) * self.config.block_size - start)
        chunks.append(Chunk(sequence, start, length, start + length == known))
        return length

    def _seats_left(self) -> int:
        fetching = sum(1 for sequence in self._fetching.values() if sequence.state is not State.DONE)
        return self.config.seats - len(self._running) - len(self._loading) - fetching

    def _fetch(self, sequence: Sequence) -> Fetch:
        """Ask for the blocks that the own cache lacks; asked for none, the transfer still tells P to free its own."""
        assert sequence.ticket is not None
        self._fetching[sequence.id] = sequence
        known = sequence.computed // self.config.block_size
        return Fetch(sequence, sequence.ticket.block_ids[known:], tuple(sequence.blocks[known:]))

    def step_done(self, batch: Batch, sampled: Seq[SampledToken | None], now: float) -> list[Output]:
        """Commit the step that was scheduled; `sampled` has an entry for each chunk, None where none was due."""
        if batch is not self._executing:
            raise RuntimeError("this batch is not the one that is executing")
        self._executing = None
        outputs = self._round_done(now) if batch.decodes else []
        computed = self._allocation.computed
        for chunk, token in zip(batch.chunks, sampled, strict=True):
            sequence = chunk.sequence
            if sequence.state is State.DONE:  # cancelled meanwhile
                self._allocation.free(sequence)
                self._pictures.end(sequence)
                continue
            computed(sequence, chunk.start + chunk.length)
            if sequence.images:
                self._pictures.computed(sequence)
                if sequence.first_due:
                    outputs.append(self._first(sequence))
            if not chunk.samples:
                continue
            if token is None:
                raise ValueError(f"the executor returned no token for {sequence.id!r}")
            tokens = sequence.tokens
            tokens.append(token.token)
            reason = None
            if token.token in sequence.stops or len(tokens) >= sequence.limit or sequence.hold:
                reason = self._end_or_hold(sequence, now)
            outputs.append(Output(sequence, token, reason))
        return outputs

    def _round_done(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        ended, aborted = self._running.lockstep.end_round(), self._aborted
        if aborted:
            ended, self._aborted = sorted([*ended, *aborted], key=lambda sequence: sequence.number), []
        for sequence in ended:
            if sequence.state is State.DONE:
                self._allocation.free(sequence)
                self._pictures.end(sequence)
                continue
            if sequence.images:
                self._pictures.computed(sequence)
            reason = self._end_or_hold(sequence, now)
            if sequence.state is State.RUNNING:  # from its first token to its last nothing happens to it
                self._running.lockstep.remove(sequence)
                self._running.lockstep.add(sequence)
            outputs.append(Output(sequence, SampledToken(sequence.tokens[-1]), reason))
        return outputs

    def _end_or_hold(self, sequence: Sequence, now: float) -> str | None:
        """End a sequence if its last token does that, and return why; else hold it, if that is asked for."""
        reason = finish_reason(sequence)
        if reason is not None:
            self._finish_running(sequence, reason)
        elif sequence.hold:
            self._running.remove(sequence)
            sequence.state = State.HELD
            self._held.add(sequence, now + self.config.lease_s)
        return reason

    def remote_ready(self, sequence_id: str, now: float) -> list[Output]:
        """Note that a fetch succeeded: the ticket's first token comes out, and the sequence decodes on."""
        sequence = self._fetched(sequence_id)
        if sequence is None:
            return []
        sequence.external_tokens = sequence.prompt_len - sequence.computed
        self._allocation.computed(sequence, sequence.prompt_len)
        return self._start_from_ticket(sequence)

    def remote_failed(self, sequence_id: str, now: float) -> list[Output]:
        """Note that a fetch failed: the first token stays and comes out, the prompt is computed here."""
        sequence = self._fetched(sequence_id)
        if sequence is None:
            return []
        self._remote_recomputes += 1
        if not self._pictures.needed(sequence, sequence.computed) or finish_reason(sequence) is not None:
            return self._start_from_ticket(sequence)
        # The first token waits, too: until the pictures are here, the request can still be refused and tried again.
        self._allocation.free(sequence)
        sequence.state, sequence.first_due = State.WAITING, True
        self._queue.add(sequence)
        return []

    def image_ready(self, key: str) -> None:
        """Note that a picture's embeddings have come: sequences that wait for no other one run."""
        for sequence in self._pictures.loaded(key):
            del self._loading[sequence.id]
            self._running.add(sequence)

    def image_failed(self, key: str) -> list[Output]:
        """Note that a picture's embeddings could not be read: under another ticket, or its sequences end in error."""
        outputs = []
        for sequence in self._pictures.failed(key):
            sequence.missing = tuple(i for i, image in enumerate(sequence.images) if image.key == key)
            del self._loading[sequence.id]
            self._allocation.free(sequence)
            outputs.append(self._refuse(sequence))
        return outputs

    def _fetched(self, sequence_id: str) -> Sequence | None:
        sequence = self._fetching.pop(sequence_id)
        if sequence.state is State.DONE:  # cancelled meanwhile
            self._allocation.free(sequence)
            return None
        return sequence

    def _start_from_ticket(self, sequence: Sequence) -> list[Output]:
        self._running.add(sequence)
        reason = finish_reason(sequence)
        if reason is not None:
            self._finish_running(sequence, reason)
        return [self._first(sequence)]

    @staticmethod
    def _first(sequence: Sequence) -> Output:
        """Return a ticket's first token."""
        assert sequence.ticket is not None
        sequence.first_due = False
        return Output(sequence, sequence.ticket.first, sequence.finish_reason)

    def _refuse(self, sequence: Sequence) -> Output:
        """End a sequence, of whose blocks none are left, because its pictures can't be had."""
        self._pictures.end(sequence)
        del self._sequences[sequence.id]
        sequence.state, sequence.finish_reason = State.DONE, "error"
        return Output(sequence, None, "error")

    def release(self, sequence_id: str) -> bool:
        """Free a held sequence's blocks; False when it is not held (any more)."""
        sequence = self._held.remove(sequence_id)
        if sequence is None:
            return False
        self._end(sequence)
        return True

    def renew(self, sequence_id: str, until: float) -> bool:
        """Move the end of a held sequence's lease; False when it is not held."""
        return self._held.renew(sequence_id, until)

    def expire(self, now: float) -> list[Sequence]:
        """Free and return the held sequences whose lease ended."""
        expired = self._held.remove_expired(now)
        for sequence in expired:
            self._end(sequence)
        self._expirations += len(expired)
        return expired

    def next_deadline(self) -> float | None:
        """Return when `expire` has something to do next."""
        return self._held.next_end()

    def uneventful_steps(self) -> int:
        """Return how many rounds can pass before one could begin or end an answer, admit, preempt or hold a sequence.

        A stop token can end a sequence earlier: whoever knows the tokens sees to that.
        """
        if self._executing is not None:
            return 0
        if self._queue and self._seats_left() and not self._queue.is_stuck(len(self._running)):
            return 0
        lockstep = self._running.lockstep
        lockstep.begin(self._running.sequences)
        return lockstep.uneventful()

    def advance(self, k: int) -> None:
        """Commit k rounds at once, exactly as k of `schedule_round` and `step_done` would.

        Raises ValueError when k exceeds `uneventful_steps()`.
        """
        if not 0 <= k <= (most := self.uneventful_steps()):
            raise ValueError(f"{k} steps asked for, {most} are uneventful")
        self._running.lockstep.advance(k)

    @property
    def decodes(self) -> tuple[int, int]:
        """How many sequences decode in rounds, and the sum of their contexts; as of `uneventful_steps`."""
        lockstep = self._running.lockstep
        return len(lockstep), lockstep.context

    def catch_up(self) -> None:
        """Bring all sequences up to date. Raises ValueError when a token would have ended one."""
        self._running.lockstep.catch_up()

    def reset_cache(self) -> bool:
        """Drop all unreferenced cached blocks; False when blocks in use still hold known prefixes."""
        return self._pool.forget_idle()

    def stats(self) -> SchedulerStats:
        """Return the figures of this moment; takes time linear in the number of sequences."""
        self.catch_up()
        states = [sequence.state for sequence in self._sequences.values()]
        return SchedulerStats(
            running=len(self._running),
            waiting=states.count(State.WAITING),
            waiting_remote=states.count(State.WAITING_REMOTE),
            preempted=states.count(State.PREEMPTED),
            held=len(self._held),
            blocks_total=self._pool.num_blocks,
            blocks_in_use=self._pool.in_use,
            blocks_held=self._held.blocks,
            blocks_cached=self._pool.idle,
            uncompleted_tokens=sum(
                len(s.tokens) - s.computed for s in self._sequences.values() if s.state is not State.HELD
            ),
            prefix_queries=self._allocation.prefix_queries,
            prefix_hits=self._allocation.prefix_hits,
            preemptions=self._running.preemptions,
            expirations=self._expirations,
            remote_recomputes=self._remote_recomputes,
        )

    def _finish_running(self, sequence: Sequence, reason: str) -> None:
        self._running.remove(sequence)
        self._end(sequence)
        sequence.finish_reason = reason

    def _end(self, sequence: Sequence) -> None:
        self._allocation.free(sequence)
        self._pictures.end(sequence)
        del self._sequences[sequence.id]
        sequence.state = State.DONE

    def _is_executing(self, sequence: Sequence) -> bool:
        batch = self._executing
        if batch is not None and batch.decodes and sequence in self._running.lockstep:
            self._aborted.append(sequence)
            return True
        return batch is not None and any(chunk.sequence is sequence for chunk in batch.chunks)
