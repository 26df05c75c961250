"""A scheduler over a toy pool: each KV entry is a mark of the tokens up to it, and every rule is checked on the way.

A picture's placeholder counts as the picture, in marks and answers; its rows, too, are read where a chunk needs them.
"""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Sequence as Seq
from typing import Any

from tercet.core.image import ImageSpan
from tercet.core.sampling import SampledToken, SamplingParams
from tercet.core.ticket import Ticket
from tercet.engine.embedding_pool import EmbeddingPool
from tercet.engine.scheduler import Scheduler, SchedulerConfig
from tercet.engine.sequence import Batch, Chunk, Fetch, ImageFetch, Output, Sequence, State

VOCABULARY = 8
EOS = 7
GARBAGE = -1
"""What a failed transfer leaves in the blocks it was writing to."""


def mark(tokens: Seq[int], root: bytes) -> int:
    """Return the KV entry of the last of `tokens`: it depends on all of them and on the root, like real KV."""
    return zlib.crc32(bytes(tokens), zlib.crc32(root))


def next_token(tokens: Seq[int]) -> int:
    """Return the toy model's answer to a prefix."""
    return zlib.crc32(bytes(tokens)) * 2654435761 % 2**32 >> 29


def seen(tokens: Seq[int], images: Seq[ImageSpan]) -> list[int]:
    """Return tokens with every placeholder replaced by what is in its place."""
    shown = list(tokens)
    for image in images:
        shown[image.start : image.end] = [100 + int(image.key)] * image.length
    return shown


def ticket_for(prompt: Seq[int], block_size: int, images: Seq[ImageSpan] = ()) -> Ticket:
    """Return a ticket over a prompt, as a prefill worker would."""
    blocks = -(-len(prompt) // block_size)
    return Ticket(
        id="ticket",
        engine_id="engine",
        rank=0,
        fingerprint="toy",
        block_size=block_size,
        token_ids=tuple(prompt),
        block_ids=tuple(range(100, 100 + blocks)),
        first=SampledToken(next_token(seen(prompt, images))),
        seed=0,
        control="",
        addresses={},
        lease_s=1.0,
        expires_at=0.0,
    )


class ToyEngine:
    """Drives one scheduler. `now` moves only when a test says so."""

    def __init__(self, config: SchedulerConfig, embeddings: EmbeddingPool | None = None) -> None:
        self.config = config
        self.embeddings = EmbeddingPool(0) if embeddings is None else embeddings
        self.scheduler = Scheduler(config, self.embeddings, future)
        self.now = 0.0
        self.sequences: dict[str, Sequence] = {}
        self.answers: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}
        self.fetches: dict[str, Fetch] = {}
        self.executing: Batch | None = None
        self.kv: dict[tuple[int, int], int] = {}
        self.loads: dict[str, ImageFetch] = {}
        self.rows: dict[int, tuple[str, int]] = {}  # block of the embedding pool -> picture, number of the block in it
        self.leases: list[str] = []
        self.tried: dict[str, set[str]] = {}  # sequence -> keys that could not be loaded while it was there

    def add(
        self,
        prompt: Seq[int],
        sampling: SamplingParams,
        *,
        hold: bool = False,
        remote: bool = False,
        root: bytes = b"root",
        images: tuple[ImageSpan, ...] = (),
        sources: frozenset[str] = frozenset(),
    ) -> Sequence:
        """Add a sequence, with a ticket when `remote`; `sources` are the pictures that can be loaded."""
        ticket = ticket_for(prompt, self.config.block_size, images) if remote else None
        tokens = [*prompt, ticket.first.token] if ticket else list(prompt)
        sequence = Sequence(
            f"s{len(self.sequences)}",
            tokens,
            len(prompt),
            sampling,
            self.now,
            root,
            hold=hold,
            ticket=ticket,
            images=images,
            sources={image.key for image in images} & sources,
        )
        self.scheduler.add(sequence)
        self.sequences[sequence.id] = sequence
        self.answers[sequence.id] = []
        return sequence

    def live(self) -> list[Sequence]:
        """Return the sequences that have not ended."""
        return [s for s in self.sequences.values() if s.state is not State.DONE]

    def begin_step(self) -> Batch:
        """Schedule; the batch then executes until `end_step`."""
        plan = self.scheduler.schedule(self.now)
        self._check_batch(plan.batch)
        for fetch in plan.fetches:
            self._check_fetch(fetch)
            self.fetches[fetch.sequence.id] = fetch
        for load in plan.image_fetches:
            assert load.key in load.sequence.sources and load.key not in self.loads
            self.loads[load.key] = load
        for output in plan.refused:
            self._check_refused(output)
        if plan.batch.chunks:
            self.executing = plan.batch
        return plan.batch

    def end_step(self) -> list[Output]:
        """Execute the batch and commit it."""
        batch = self.executing
        assert batch is not None
        self.executing = None
        sampled = [self._execute(chunk) for chunk in batch.chunks]
        outputs = self.scheduler.step_done(batch, sampled, self.now)
        self._take(outputs)
        return outputs

    def step(self) -> list[Output]:
        """Run one whole step; nothing to do is fine."""
        return self.end_step() if self.begin_step().chunks else []

    def end_fetch(self, sequence_id: str, ready: bool) -> list[Output]:
        """Let a transfer write its blocks, or garbage when it fails, and report it."""
        fetch = self.fetches.pop(sequence_id)
        sequence = fetch.sequence
        assert sequence.blocks[len(sequence.blocks) - len(fetch.local) :] == list(fetch.local)
        self._check_private(sequence, fetch.local)
        size = self.config.block_size
        for position in range((len(sequence.blocks) - len(fetch.local)) * size, sequence.prompt_len):
            content = mark(seen(sequence.tokens, sequence.images)[: position + 1], sequence.root) if ready else GARBAGE
            self.kv[sequence.blocks[position // size], position % size] = content
        event = self.scheduler.remote_ready if ready else self.scheduler.remote_failed
        outputs = event(sequence_id, self.now)
        self._take(outputs)
        return outputs

    def end_load(self, key: str, ready: bool) -> None:
        """Let a picture's embeddings come, or garbage when they do not, and report it."""
        load = self.loads.pop(key)
        entry = self.embeddings.get(key)
        assert entry is not None and entry.blocks == load.local and not entry.ready
        for number, block in enumerate(load.local):
            self.rows[block] = (key if ready else "garbage", number)
        if ready:
            self.scheduler.image_ready(key)
            return
        for s in self.live():
            self.tried.setdefault(s.id, set()).add(key)
        for output in self.scheduler.image_failed(key):
            self._check_refused(output)

    def encode(self, key: str, tokens: int) -> bool:
        """Put a picture in the pool as the encode stage would, and lease it; False when there is no room for that."""
        entry = self.embeddings.get(key)
        if (entry is not None and not entry.ready) or not self.embeddings.can_lease({key: tokens}):
            return False
        if entry is None:
            entry = self.embeddings.reserve_entry(key, tokens)
            for number, block in enumerate(entry.blocks):
                self.rows[block] = (key, number)
            self.embeddings.loaded(key)
            self.embeddings.lease(key)
            self.embeddings.unpin(key)
        else:
            self.embeddings.lease(key)
        self.leases.append(key)
        return True

    def end_leases(self) -> None:
        """End what `encode` leased."""
        while self.leases:
            self.embeddings.unlease(self.leases.pop())

    def cancel(self, sequence_id: str) -> None:
        """Cancel; known sequences answer with an abort, others with nothing."""
        known = self.sequences[sequence_id].state is not State.DONE
        output = self.scheduler.cancel(sequence_id)
        assert (output is not None) == known
        if output is not None:
            assert output.finish_reason == "abort" and output.sampled is None
            self.reasons[sequence_id] = "abort"

    def expire(self) -> None:
        """Free held sequences whose lease is over, and no others."""
        due = {s.id for s in self.live() if s.lease_until is not None and s.lease_until <= self.now}
        ends = [s.lease_until for s in self.live() if s.lease_until is not None]
        assert self.scheduler.next_deadline() == min(ends, default=None)
        assert {s.id for s in self.scheduler.expire(self.now)} == due

    def leap(self, wanted: int) -> int:
        """Advance up to `wanted` steps at once, after single steps on a copy showed where that must lead."""
        running = [s for s in self.live() if s.state is State.RUNNING]
        k = min(wanted, self.scheduler.uneventful_steps())
        futures = {s.id: future(s, k) for s in running}
        k = min([k, *(i for s in running for i, t in enumerate(futures[s.id]) if t in s.stops)])
        single = copy.deepcopy(self.scheduler)
        for _ in range(k):
            plan = single.schedule(self.now)
            assert not plan.fetches and len(plan.batch.chunks) == len(running)
            tokens = [SampledToken(next_token(seen(c.sequence.tokens, c.sequence.images))) for c in plan.batch.chunks]
            outputs = single.step_done(plan.batch, tokens, self.now)
            assert all(o.finish_reason is None and o.sequence.state is State.RUNNING for o in outputs)
        before = {s.id: s.computed for s in running}
        self.scheduler.advance(k)
        self.scheduler.catch_up()
        want, got = portrait(single), portrait(self.scheduler)
        assert {key: got[key] for key in got if got[key] != want[key]} == {}, "k steps at once differ from k steps"
        for s in running:
            self._write(s, before[s.id], s.computed)
            self.answers[s.id] += futures[s.id][:k]
        return k

    def drain(self) -> int:
        """Run until all but held sequences ended; return the steps it took. Every idle moment must have a reason."""
        steps = 0
        while True:
            live = [s for s in self.live() if s.state is not State.HELD]
            if not live and not self.fetches and not self.loads and self.executing is None:
                self.begin_step()  # a load of a sequence that has ended may still be due
                if not self.loads:
                    return steps
            ended = len(self.reasons)
            worked = self.executing is not None or bool(self.begin_step().chunks)
            if worked:
                self.end_step()
                steps += 1
            worked |= len(self.reasons) > ended
            for sequence_id in list(self.fetches):
                self.end_fetch(sequence_id, ready=steps % 3 != 0)
                worked = True
            for key in list(self.loads):
                self.end_load(key, ready=steps % 4 != 0)
                worked = True
            if not worked and live:
                held = [s for s in self.live() if s.state is State.HELD]
                assert held, f"nothing runs although {[(s.id, s.state) for s in live]} wait"
                self.now = max(self.now, min(s.lease_until for s in held if s.lease_until is not None))
                self.expire()
            self.check()

    def check(self) -> None:
        """Check what holds at any moment."""
        self._check_embeddings()
        stats = self.scheduler.stats()
        owners = Counter(block for s in self.sequences.values() for block in s.blocks)
        assert stats.blocks_in_use == len(owners)
        assert stats.blocks_held == len({b for s in self.live() if s.state is State.HELD for b in s.blocks})
        assert stats.blocks_in_use + stats.blocks_cached <= stats.blocks_total
        for block, count in owners.items():
            if count > 1:
                self._check_shared(block)
        states = Counter(s.state for s in self.live())
        assert (stats.running, stats.held) == (states[State.RUNNING], states[State.HELD])
        assert (stats.waiting, stats.preempted) == (states[State.WAITING], states[State.PREEMPTED])
        assert stats.waiting_remote == states[State.WAITING_REMOTE]
        assert stats.running <= self.config.max_num_seqs
        for s in self.live():
            if s.state is State.HELD:
                self._check_read(s, s.prompt_len)

    def expected(self, sequence: Sequence) -> tuple[list[int], str]:
        """Return the whole answer that a sequence must get whatever happens to it, and how it ends."""
        tokens = seen(sequence.tokens, sequence.images)[: sequence.prompt_len]
        stops = sequence.sampling.stop_token_ids | (set() if sequence.sampling.ignore_eos else {EOS})
        while True:
            tokens.append(next_token(tokens))
            count = len(tokens) - sequence.prompt_len
            if tokens[-1] in stops and count >= sequence.sampling.min_tokens:
                return tokens[sequence.prompt_len :], "stop"
            if count == sequence.sampling.max_tokens or len(tokens) == self.config.max_len:
                return tokens[sequence.prompt_len :], "length"

    def check_answers(self) -> None:
        """Check every answer, whole or as far as it got."""
        for s in self.sequences.values():
            answer, reason = self.expected(s)
            if s.id in self.reasons and self.reasons[s.id] not in ("abort", "error"):
                assert (self.answers[s.id], self.reasons[s.id]) == (answer, reason)
            else:
                assert self.answers[s.id] == answer[: len(self.answers[s.id])]

    def _take(self, outputs: Seq[Output]) -> None:
        for sequence, sampled, reason in outputs:
            assert sequence.id not in self.reasons, "an output after the end"
            assert sampled is not None
            self.answers[sequence.id].append(sampled.token)
            if reason is not None:
                assert sequence.state is State.DONE and sequence.finish_reason == reason
                self.reasons[sequence.id] = reason
            elif sequence.hold:
                assert sequence.state is State.HELD
                assert sequence.lease_until == self.now + self.config.lease_s

    def _check_refused(self, output: Output) -> None:
        """A sequence ends in error only for pictures it came without, or whose loading failed."""
        s, sampled, reason = output
        assert s.state is State.DONE and sampled is None and reason == s.finish_reason == "error"
        assert s.missing and s.id not in self.reasons
        for index in s.missing:
            assert s.images[index].key not in s.sources
        self.reasons[s.id] = "error"

    def _check_embeddings(self) -> None:
        pool = self.embeddings
        entries = [entry for key in map(str, range(10)) if (entry := pool.get(key)) is not None]
        blocks = [block for entry in entries for block in entry.blocks]
        assert len(blocks) == len(set(blocks)) == pool.occupied <= pool.num_blocks
        assert pool.in_use == sum(len(e.blocks) for e in entries if e.pins or e.leases)
        assert sum(len(e.blocks) for e in entries if e.leases) <= pool.num_blocks - pool.reserve
        assert all(e.ready or e.pins or e.leases for e in entries), "nobody loads it, nobody has it"
        for e in entries:
            owners = sum(e.key in s.owned for s in self.sequences.values())
            assert e.leases == owners + self.leases.count(e.key)
            if e.ready:
                assert [self.rows[block] for block in e.blocks] == [(e.key, i) for i in range(len(e.blocks))]
        assert pool.keep or pool.available == pool.num_blocks - pool.occupied

    def _check_batch(self, batch: Batch) -> None:
        assert batch.num_tokens <= self.config.max_num_batched_tokens
        assert len(batch.chunks) <= self.config.max_num_seqs
        assert len({c.sequence.id for c in batch.chunks}) == len(batch.chunks)
        for c in batch.chunks:
            s = c.sequence
            assert s.state is State.RUNNING and c.start == s.computed and c.length >= 1
            assert c.start + c.length <= min(len(s.tokens), len(s.blocks) * self.config.block_size)
            assert c.samples == (c.start + c.length == len(s.tokens))
            self._check_private(s, self._written(c))

    def _check_fetch(self, fetch: Fetch) -> None:
        s = fetch.sequence
        assert s.ticket is not None and s.state is State.WAITING_REMOTE
        assert len(s.blocks) == len(s.ticket.block_ids)
        known = len(s.blocks) - len(fetch.local)
        assert fetch.local == tuple(s.blocks[known:]) and fetch.remote == s.ticket.block_ids[known:]
        self._check_read(s, known * self.config.block_size)

    def _written(self, chunk: Chunk) -> list[int]:
        size = self.config.block_size
        return chunk.sequence.blocks[chunk.start // size : -(-(chunk.start + chunk.length) // size)]

    def _execute(self, chunk: Chunk) -> SampledToken | None:
        s, end = chunk.sequence, chunk.start + chunk.length
        self._check_private(s, self._written(chunk))
        self._check_read(s, chunk.start)
        for image in s.images:
            if image.start < end and chunk.start < image.end:
                entry = self.embeddings.get(image.key)
                assert entry is not None and entry.ready and entry.pins + entry.leases, f"{s.id} reads {image}"
                assert entry.tokens == image.length
        self._write(s, chunk.start, end)
        return SampledToken(next_token(seen(s.tokens, s.images)[:end])) if chunk.samples else None

    def _write(self, sequence: Sequence, start: int, end: int) -> None:
        size = self.config.block_size
        for p in range(start, end):
            shown = seen(sequence.tokens, sequence.images)
            self.kv[sequence.blocks[p // size], p % size] = mark(shown[: p + 1], sequence.root)

    def _check_read(self, sequence: Sequence, end: int) -> None:
        size = self.config.block_size
        for p in range(end):
            want = mark(seen(sequence.tokens, sequence.images)[: p + 1], sequence.root)
            assert self.kv[sequence.blocks[p // size], p % size] == want, f"{sequence.id} reads wrong KV at {p}"

    def _check_private(self, sequence: Sequence, blocks: Seq[int]) -> None:
        for other in self.sequences.values():
            if other is not sequence:
                assert not set(other.blocks) & set(blocks), f"{sequence.id} writes into blocks of {other.id}"

    def _check_shared(self, block: int) -> None:
        """A block with several owners is full, and the same prefix for all of them."""
        prefixes = set()
        for s in self.sequences.values():
            if block in s.blocks:
                end = (s.blocks.index(block) + 1) * self.config.block_size
                assert s.computed >= end or s.state is State.WAITING_REMOTE or s.state is State.DONE
                prefixes.add((s.root, tuple(seen(s.tokens, s.images)[:end])))
                assert s.blocks.count(block) == 1
        assert len(prefixes) == 1


def future(sequence: Sequence, k: int) -> list[int]:
    """Return the next k tokens of the toy model's answer."""
    tokens = seen(sequence.tokens, sequence.images)
    for _ in range(k):
        tokens.append(next_token(tokens))
    return tokens[len(sequence.tokens) :]


def portrait(scheduler: Scheduler) -> dict[str, Any]:
    """Return everything that decides a scheduler's future, comparable (hashes that are due later may be known)."""
    inside, queue = vars(scheduler), vars(vars(scheduler)["_queue"])
    pool, allocation, size = inside["_pool"], inside["_allocation"], scheduler.config.block_size
    return {
        "sequences": [
            (s.id, s.state, s.tokens, s.computed, s.blocks, s.block_hashes[: s.computed // size], s.preemptions)
            for s in inside["_sequences"].values()
        ],
        "queue": [s.id for s in queue["_sequences"]],
        "running": [s.id for s in inside["_running"].sequences],
        "pool": {name: list(v.items()) if isinstance(v, dict) else v for name, v in vars(pool).items()},
        "found": (allocation.prefix_queries, allocation.prefix_hits),
        "stuck": queue["_stuck"],
        "embeddings": vars(inside["_pictures"].pool),
        "stats": scheduler.stats(),
    }
