"""What the engine's benchmarks share: a pinned core, a timer, sequences without a scheduler."""

from __future__ import annotations

import mmap
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tercet.core.sampling import SamplingParams
from tercet.engine.models.store import resolve
from tercet.engine.sequence import Batch, Chunk, Sequence
from tercet.engine.torch_executor import TorchExecutor, build_torch_executor

BLOCK_SIZE = 16


def pin(core: int | None) -> int:
    """Pin this process to one core (default: its last) and return its number."""
    chosen = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {chosen})
    return chosen


def model_folder(model: str) -> Path:
    """Return the folder of a model's name or path."""
    return resolve(model).path


def build(folder: Path, dtype: str, num_blocks: int = 1024) -> TorchExecutor:
    """Build an executor on one thread, its pool in anonymous memory."""
    return build_torch_executor(
        folder,
        dtype=dtype,
        device="cpu",
        block_size=BLOCK_SIZE,
        num_blocks=num_blocks,
        kv_bytes=0,
        max_num_seqs=64,
        max_num_batched_tokens=512,
        max_model_len=4096,
        threads=1,
        pool_factory=lambda nbytes: memoryview(mmap.mmap(-1, nbytes)),
    )


def sequence(length: int, first_block: int, vocabulary: int) -> Sequence:
    """Return a sequence of random tokens that owns the blocks from `first_block` on."""
    draw = random.Random(first_block)
    blocks = range(first_block, first_block + -(-length // BLOCK_SIZE))
    return Sequence(
        id=f"s{first_block}",
        tokens=[draw.randrange(vocabulary) for _ in range(length)],
        prompt_len=length,
        sampling=SamplingParams(max_tokens=1, temperature=0.0),
        arrival=0.0,
        root=b"",
        blocks=list(blocks),
    )


def decode_batch(sequences: int, context: int, vocabulary: int) -> Batch:
    """Return a step that computes one token of each sequence, `context` tokens in the pool before it."""
    each = -(-(context + 1) // BLOCK_SIZE)
    return Batch(tuple(Chunk(sequence(context + 1, i * each, vocabulary), context, 1, True) for i in range(sequences)))


def prefill_batch(length: int, vocabulary: int) -> Batch:
    """Return a step that computes a whole prompt and samples its first token."""
    return Batch((Chunk(sequence(length, 0, vocabulary), 0, length, True),))


@dataclass
class Timer:
    """Times of named pieces of work, in seconds: of the wall, and of this thread's processor time.

    On a machine shared with others only the latter says how long the work takes.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Do the work once and keep its times."""
        wall, cpu = time.perf_counter(), time.thread_time()
        work()
        self.cpu.setdefault(name, []).append(time.thread_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)

    def median(self, name: str) -> float:
        """Return the median processor time."""
        return statistics.median(self.cpu[name])

    def ratio(self, name: str, base: str) -> float:
        """Return the median over rounds of processor time of `name` over that of `base`, paired by round."""
        return statistics.median(a / b for a, b in zip(self.cpu[name], self.cpu[base], strict=True))


@dataclass(frozen=True)
class Verdict:
    """One target and what was measured."""

    what: str
    measured: float
    limit: float
    unit: str
    at_most: bool = True

    @property
    def passed(self) -> bool:
        """True when the target is met."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def line(self) -> str:
        """Return one line of the table."""
        sign = "<=" if self.at_most else ">="
        mark = "PASS" if self.passed else "FAIL"
        return f"{self.what:<58} {self.measured:8.2f} {sign} {self.limit:<6g} {self.unit:<4} {mark}"
