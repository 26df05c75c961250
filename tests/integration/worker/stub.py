"""A worker whose executor does what a test tells it to, by the length of a prompt; runs as front or as engine.

Prompts of 11 tokens raise, of 12 hang, of 13 take a minute, of 14 kill the engine process; any other step takes
20 ms. Starts in a fraction of a second, as there is no torch.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from tercet.core.sampling import SampledToken
from tercet.core.stage import Stage
from tercet.engine.executor import KVLayout
from tercet.engine.sequence import Batch
from tercet.worker import engine_process, front
from tercet.worker.config import EngineConfig, WorkerConfig
from tercet.worker.engine_build import KV, Allocate, EngineParts
from tercet.worker.process import Device

RAISES, HANGS, SLOW, DIES = 11, 12, 13, 14
STEP_S = 0.02
GRACE_S = 1.0
"""What requests get when the worker is told to end: less than usual, as tests wait for it."""


class StubExecutor:
    def __init__(self, layout: KVLayout, pool: memoryview) -> None:
        self.layout, self.pool, self.lag = layout, pool, None

    def execute(self, batch: Batch) -> list[SampledToken | None]:
        """See Executor."""
        lengths = {chunk.sequence.prompt_len for chunk in batch.chunks}
        if RAISES in lengths:
            raise RuntimeError("the stub was told to fail")
        if DIES in lengths:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000 if HANGS in lengths else 60 if SLOW in lengths else STEP_S)
        return [SampledToken(65 + len(c.sequence.tokens) % 20) if c.samples else None for c in batch.chunks]

    def close(self) -> None:
        """See Executor."""


def build(config: EngineConfig, device: Device, threads: int, allocate: Allocate) -> EngineParts:
    """Return the stub; a device that says so fails to start."""
    layout = KVLayout(256, config.block_size, 64, "stub")
    return EngineParts(StubExecutor(layout, allocate(256 * 64, KV)))


def run_front(arguments: list[str]) -> int:
    """Start a front of stubs: --port N TOPOLOGY [GRACE_S]."""
    config = WorkerConfig(
        name="stub",
        stages=frozenset({Stage.PREFILL, Stage.DECODE}),
        random_weights="tiny",
        dtype="fp32",
        port=int(arguments[1]),
        topology_id=arguments[2],
        max_num_seqs=8,
        max_model_len=2000,
    )
    command = (sys.executable, "-m", "tests.integration.worker.stub", "engine")
    return front.run(config, engine_command=command, grace_s=float(arguments[3]) if len(arguments) > 3 else GRACE_S)


if __name__ == "__main__":
    if sys.argv[1] == "engine":
        del sys.argv[1]
        engine_process.main(build)
    sys.exit(run_front(sys.argv[1:]))
