"""One trace through a virtual GPU in real time, and through the simulator: the same batches."""

from __future__ import annotations

import random
import threading
import time

from tercet.core.sampling import SamplingParams
from tercet.engine.executor import KVLayout
from tercet.engine.scheduler import Scheduler, SchedulerConfig
from tercet.engine.sequence import Batch, Sequence
from tercet.engine.virtual_executor import TOKEN_BYTES, VirtualExecutor
from tercet.latency.linear import LinearOracle
from tercet.sim.clock import Clock
from tercet.sim.engine import Engine

ORACLE = LinearOracle(base_ms=6.0, token_ms=0.05, context_ms=0.0005, kv_token_bytes=TOKEN_BYTES, kv_tokens=1 << 16)
CONFIG = SchedulerConfig(num_blocks=70, block_size=16, max_num_seqs=8, max_num_batched_tokens=96, max_model_len=512)
Made = list[list[tuple[str, int, int]]]


def sequences(seed: int) -> list[Sequence]:
    rng = random.Random(seed)
    made = []
    for i in range(24):
        lead = list(range(100, 164)) if i % 3 == 0 else []
        tokens = lead + [rng.randrange(1000, 30_000) for _ in range(rng.randrange(5, 250))]
        sampling = SamplingParams(rng.randrange(2, 40), temperature=0.0, ignore_eos=True)
        made.append(Sequence(f"s{i}", tokens, len(tokens), sampling, 0.0, b"root"))
    return made


def written(batch: Batch) -> list[tuple[str, int, int]]:
    return [(chunk.sequence.id, chunk.start, chunk.length) for chunk in batch.chunks]


def in_real_time() -> tuple[Made, list[int]]:
    """Return the batches, and for every arrival how many steps had begun."""
    layout = KVLayout(CONFIG.num_blocks, CONFIG.block_size, CONFIG.block_size * TOKEN_BYTES, "f")
    pool = memoryview(bytearray(layout.num_blocks * layout.block_bytes))
    executor, scheduler = VirtualExecutor(ORACLE, layout, pool, vocab_size=32_000), Scheduler(CONFIG)
    inbox: list[Sequence] = []
    rng = random.Random(7)

    def send() -> None:
        for sequence in sequences(3):
            inbox.append(sequence)
            time.sleep(rng.expovariate(60))

    sender = threading.Thread(target=send)
    sender.start()
    batches: Made = []
    arrivals: list[int] = []
    while True:
        alive = sender.is_alive()
        while inbox:
            scheduler.add(inbox.pop(0))
            arrivals.append(len(batches))
        batch = scheduler.schedule(time.monotonic()).batch
        if batch.chunks:
            batches.append(written(batch))
            scheduler.step_done(batch, executor.execute(batch), time.monotonic())
        elif not alive and not inbox:
            return batches, arrivals
        else:
            time.sleep(0.001)


class Finished:
    def first(self, sequence: Sequence) -> None:
        """Nothing follows from it."""

    held = ended = first


def replayed(arrivals: list[int]) -> Made:
    """Return the batches of the simulator, which gets every sequence in the step in which it came."""
    batches: Made = []
    waiting = list(zip(arrivals, sequences(3), strict=True))

    def watch(now: float, batch: Batch) -> None:
        batches.append(written(batch))
        while waiting and waiting[0][0] <= len(batches):
            engine.add(waiting.pop(0)[1], Finished())

    clock = Clock()
    engine = Engine(clock, ORACLE, CONFIG, fetch_s=lambda each: 0.0, reachable=lambda each: True, watch=watch)
    engine.add(waiting.pop(0)[1], Finished())
    clock.run()
    assert not waiting
    return batches


def test_recorded_arrivals_give_the_same_batches() -> None:
    batches, arrivals = in_real_time()
    assert arrivals[0] == 0
    assert len(batches) > 40
    assert any(len({length > 1 for _, _, length in batch}) == 2 for batch in batches), "no step was mixed"
    assert replayed(arrivals) == batches
