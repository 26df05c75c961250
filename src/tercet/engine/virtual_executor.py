"""An executor without tensors: it sleeps as long as a GPU would compute, and answers from a hash of the tokens.

Its KV is real in the one way that matters to scheduling and transfers: every token's entry says which tokens lie
behind it, and every step reads all entries it depends on. A block that was mixed up, overwritten or not transferred
ends the engine with an error instead of an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from hashlib import blake2b
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from tercet.core.errors import TercetError
from tercet.core.image import ImageSpan
from tercet.core.sampling import SampledToken
from tercet.engine.embedding_store import EmbeddingStore
from tercet.engine.encoder import EmbeddingError
from tercet.engine.executor import KVLayout
from tercet.engine.sequence import Batch, Chunk, Sequence
from tercet.engine.step_lag import StepLag
from tercet.engine.virtual_encoder import picture_rows

TOKEN_BYTES = 16
MAX_TOKENS = 1 << 20
"""Size of a pool whose GPU could hold more: 16 MiB."""
HOST_S = 0.002
"""Engines prepare a step while the GPU computes the one before: a step that comes this soon after it follows at once.

The oracles' steps are those of such engines, so this machine's own time between two steps is no part of them.
"""

_MASK = (1 << 64) - 1
_ROOT = 0x9E3779B97F4A7C15
_FACTOR = 0xD1342543DE82EF95


class KVError(TercetError):
    """A step would have read KV that is not its sequence's: a fault of scheduling or of a transfer."""


class StepOracle(Protocol):
    """What the executor asks a latency oracle, in milliseconds; see `latency.oracle.LatencyOracle`."""

    def prefill(self, batch: int, tokens: float, prefix: float) -> float:
        """Prompts alone."""
        ...

    def decode(self, batch: int, context: float) -> float:
        """Decodes alone."""
        ...

    def mixed(self, tokens: int, prefix: int, batch: int, context: float, prompts: int = 1) -> float:
        """Both in one step, or several prompts."""
        ...

    def kv_capacity(self) -> int:
        """Tokens of KV that fit."""
        ...


class Trail:
    """The KV entries that a sequence must have: [tokens, 2] numbers, (hash of all tokens so far, position and id)."""

    def __init__(self) -> None:
        self.entries: npt.NDArray[np.uint64] = np.empty((64, 2), np.uint64)
        self._length = 0
        self._chain = _ROOT

    def extend(self, tokens: Seq[int], end: int, images: Seq[ImageSpan] = ()) -> None:
        """Make entries[:end] valid for tokens[:end]. Tokens of a sequence only ever get more.

        Where a picture's placeholders stand, the picture counts, not the token.
        """
        if end <= self._length:
            return
        rows = []
        seen = _seen(images, self._length, end) if images else {}
        for position in range(self._length, end):
            token = tokens[position]
            self._chain = ((self._chain ^ seen.get(position, token + 1)) * _FACTOR) & _MASK
            rows.append((self._chain, position << 32 | token))
        if end > len(self.entries):
            self.entries = np.concatenate([self.entries, np.empty((max(end, len(self.entries)), 2), np.uint64)])
        self.entries[self._length : end] = rows
        self._length = end


def _seen(images: Seq[ImageSpan], start: int, end: int) -> dict[int, int]:
    """Return what each position in [start, end) that a picture covers counts as."""
    seen: dict[int, int] = {}
    for image in images:
        first, last = max(start, image.start), min(end, image.end)
        if first < last:
            rows = picture_rows(image.key, image.length)
            for position in range(first, last):
                seen[position] = int(rows[position - image.start, 0]) ^ (position - image.start)
    return seen


class VirtualExecutor:
    """A *virtual GPU*: an Executor that takes `oracle`'s time.

    A token is a function of all tokens before it (and of the seed, unless greedy), so every route gives the same
    answer. It is never one of `eos_token_ids`: answers end by length. `pool` has layout.num_blocks *
    layout.block_bytes bytes or more, `sleep` and `clock` are in seconds.
    """

    def __init__(
        self,
        oracle: StepOracle,
        layout: KVLayout,
        pool: memoryview,
        *,
        vocab_size: int,
        eos_token_ids: frozenset[int] = frozenset(),
        embeddings: EmbeddingStore | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if layout.block_bytes != layout.block_size * TOKEN_BYTES:
            raise ValueError(f"a virtual block has {TOKEN_BYTES} bytes a token")
        if vocab_size <= len(eos_token_ids):
            raise ValueError(f"{vocab_size} tokens leave none to answer with")
        self._oracle, self._layout, self._pool, self._embeddings = oracle, layout, pool, embeddings
        self._vocab_size, self._eos, self._sleep, self._clock = vocab_size, eos_token_ids, sleep, clock
        numbers = np.frombuffer(pool, np.uint64, count=layout.num_blocks * layout.block_bytes // 8)
        self._kv = numbers.reshape(layout.num_blocks, layout.block_size, 2)
        self._trails: WeakKeyDictionary[Sequence, Trail] = WeakKeyDictionary()
        self._lag = StepLag()
        self._due = 0.0

    @property
    def lag(self) -> StepLag:
        """See Executor."""
        return self._lag

    @property
    def layout(self) -> KVLayout:
        """See Executor."""
        return self._layout

    @property
    def pool(self) -> memoryview:
        """See Executor."""
        return self._pool

    def execute(self, batch: Batch) -> list[SampledToken | None]:
        """See Executor. Raises KVError when a chunk's KV, read after all were written, is not its own, and
        EmbeddingError when its pictures' rows are not."""
        now = self._clock()
        begin = self._due if now - self._due <= HOST_S else now
        self._due = due = begin + step_ms(self._oracle, batch) / 1e3
        for chunk in batch.chunks:
            self._write(chunk)
        tokens = [self._read(chunk) for chunk in batch.chunks]
        self._sleep(max(due - self._clock(), 0.0))
        self._lag.observe(max(self._clock() - due, 0.0))
        return tokens

    def close(self) -> None:
        """Let go of the pool."""
        self._kv = np.empty((0, 0, 2), np.uint64)

    def _write(self, chunk: Chunk) -> None:
        sequence, start, end = chunk.sequence, chunk.start, chunk.start + chunk.length
        trail = self._trails.get(sequence)
        if trail is None:
            trail = self._trails[sequence] = Trail()
        trail.extend(sequence.tokens, end, sequence.images)
        for image in sequence.images:
            if image.start < end and start < image.end:
                self._check_rows(image)
        size = self._layout.block_size
        if chunk.length == 1:
            self._kv[sequence.blocks[start // size], start % size] = trail.entries[start]
        else:
            positions = np.arange(start, end)
            blocks = np.array(sequence.blocks)[positions // size]
            self._kv[blocks, positions % size] = trail.entries[start:end]

    def _check_rows(self, image: ImageSpan) -> None:
        store = self._embeddings
        entry = None if store is None else store.pool.get(image.key)
        if store is None or entry is None or not entry.ready:
            raise EmbeddingError(f"a step reads the picture {image.key!r}, which is not here")
        if store.read(entry) != picture_rows(image.key, image.length).tobytes():
            raise EmbeddingError(f"the embeddings in the place of picture {image.key!r} are not its own")

    def _read(self, chunk: Chunk) -> SampledToken | None:
        sequence, end = chunk.sequence, chunk.start + chunk.length
        want = self._trails[sequence].entries[:end]
        used = -(-end // self._layout.block_size)
        found = self._kv[np.array(sequence.blocks[:used])].reshape(-1, 2)[:end]
        if not np.array_equal(found, want):
            self._complain(sequence, found, want)
        return self._choose(sequence, int(found[-1, 0])) if chunk.samples else None

    def _complain(self, sequence: Sequence, found: npt.NDArray[np.uint64], want: npt.NDArray[np.uint64]) -> None:
        position = int(np.flatnonzero((found != want).any(axis=1))[0])
        block = sequence.blocks[position // self._layout.block_size]
        place, token = divmod(int(found[position, 1]), 1 << 32)
        raise KVError(
            f"sequence {sequence.id!r} reads wrong KV at position {position} in block {block}: it wants token "
            f"{sequence.tokens[position]} and finds token {token} of position {place}, or of another sequence"
        )

    def _choose(self, sequence: Sequence, chain: int) -> SampledToken:
        sampling = sequence.sampling
        number = chain if sampling.greedy else chain ^ (sampling.seed & _MASK)
        while True:
            number = _mix(number)
            token = number % self._vocab_size
            if token not in self._eos:
                break
        if sampling.logprobs is None:
            return SampledToken(token)
        return SampledToken(token, 0.0, ((token, 0.0),) if sampling.logprobs else ())


def step_ms(oracle: StepOracle, batch: Batch) -> float:
    """Return the time of a batch by an oracle, in milliseconds."""
    tokens = prefix = prompts = 0
    decodes, context = batch.decodes, batch.context
    for chunk in batch.chunks:
        if chunk.length == 1:
            decodes += 1
            context += chunk.start
        else:
            tokens += chunk.length
            prefix += chunk.start
            prompts += 1
    if not tokens:
        return oracle.decode(decodes, context / decodes) if decodes else 0.0
    if not decodes and prompts == 1:
        return oracle.prefill(1, tokens, prefix)
    return oracle.mixed(tokens, prefix, decodes, context / decodes if decodes else 0.0, prompts)


def build_virtual_executor(
    oracle: StepOracle,
    *,
    model_dir: Path,
    dtype: str,
    block_size: int,
    num_blocks: int,
    vocab_size: int,
    pool_factory: Callable[[int], memoryview],
    eos_token_ids: frozenset[int] = frozenset(),
    embeddings: EmbeddingStore | None = None,
) -> VirtualExecutor:
    """Return a virtual GPU for the model in `model_dir`; `num_blocks` 0 takes what the oracle says that fits."""
    blocks = num_blocks or max(min(oracle.kv_capacity(), MAX_TOKENS) // block_size, 1)
    digest = blake2b((model_dir / "config.json").read_bytes(), digest_size=8).hexdigest()
    layout = KVLayout(blocks, block_size, block_size * TOKEN_BYTES, f"virtual:{digest}:{dtype}:{block_size}")
    pool = pool_factory(blocks * layout.block_bytes)
    return VirtualExecutor(
        oracle, layout, pool, vocab_size=vocab_size, eos_token_ids=eos_token_ids, embeddings=embeddings
    )


def _mix(number: int) -> int:
    """SplitMix64's finaliser."""
    number = (number + _ROOT) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
