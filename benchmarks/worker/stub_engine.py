"""An engine process whose executor computes nothing: a step lasts a fixed time, its tokens come out of a text."""

from __future__ import annotations

import os
import time

from tercet.core.sampling import SampledToken
from tercet.engine.executor import KVLayout
from tercet.engine.sequence import Batch
from tercet.worker import engine_process
from tercet.worker.config import EngineConfig
from tercet.worker.engine_build import KV, Allocate, EngineParts
from tercet.worker.process import Device

TEXT = b" The quick brown fox jumps over the lazy dog, again and again."
BLOCK_BYTES = 64


class StubExecutor:
    """Steps of `step_s` seconds, counted from the end of the last one while there is work."""

    def __init__(self, layout: KVLayout, pool: memoryview, step_s: float) -> None:
        self.layout, self.pool, self.lag = layout, pool, None
        self._step_s = step_s
        self._due = 0.0

    def execute(self, batch: Batch) -> list[SampledToken | None]:
        """See Executor."""
        now = time.perf_counter()
        self._due = max(self._due + self._step_s, now)
        time.sleep(self._due - now)
        return [SampledToken(TEXT[len(c.sequence.tokens) % len(TEXT)]) if c.samples else None for c in batch.chunks]

    def close(self) -> None:
        """See Executor."""


def build(config: EngineConfig, device: Device, threads: int, allocate: Allocate) -> EngineParts:
    """Build the stub; its step time in milliseconds is in the environment."""
    blocks = 16384
    layout = KVLayout(blocks, config.block_size, BLOCK_BYTES, "stub")
    step_s = float(os.environ["STUB_STEP_MS"]) / 1e3
    return EngineParts(StubExecutor(layout, allocate(blocks * BLOCK_BYTES, KV), step_s))


if __name__ == "__main__":
    engine_process.main(build)
