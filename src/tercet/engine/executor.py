"""The executor's side of the engine: what turns a batch into tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from tercet.core.sampling import SampledToken
from tercet.engine.sequence import Batch
from tercet.engine.step_lag import StepLag


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The pool: `num_blocks` blocks of `block_size` tokens; a block of all layers is one run of `block_bytes` bytes.

    `fingerprint` names weights, dtype, block size and layout: blocks move only between equal fingerprints.
    """

    num_blocks: int
    block_size: int
    block_bytes: int
    fingerprint: str


class Executor(Protocol):
    """Runs steps. Implementations: TorchExecutor (tensors), VirtualExecutor (a latency function)."""

    @property
    def layout(self) -> KVLayout:
        """Return the pool's layout."""
        ...

    @property
    def pool(self) -> memoryview:
        """Return the pool's bytes, num_blocks * block_bytes long, writable; block b starts at b * block_bytes."""
        ...

    @property
    def lag(self) -> StepLag | None:
        """Return how late its steps end; None for a device that takes what time it takes."""
        ...

    def execute(self, batch: Batch) -> Seq[SampledToken | None]:
        """Compute the batch; return one entry per chunk, None where `samples` is false."""
        ...

    def close(self) -> None:
        """Free the pool and every other resource."""
        ...
