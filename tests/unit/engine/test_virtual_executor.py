from __future__ import annotations

from pathlib import Path

import pytest

from tercet.core.sampling import SampledToken, SamplingParams
from tercet.core.ticket import Ticket
from tercet.engine.executor import Executor, KVLayout
from tercet.engine.scheduler import Scheduler, SchedulerConfig
from tercet.engine.sequence import Batch, Chunk, Fetch, Sequence, State
from tercet.engine.step_lag import BOUNDS_S
from tercet.engine.virtual_executor import TOKEN_BYTES, KVError, VirtualExecutor, build_virtual_executor, step_ms

SIZE = 4
BLOCK_BYTES = SIZE * TOKEN_BYTES


class Recorder:
    """An oracle that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | float, ...]] = []

    def prefill(self, batch: int, tokens: float, prefix: float) -> float:
        self.asked.append(("prefill", batch, tokens, prefix))
        return 30.0

    def decode(self, batch: int, context: float) -> float:
        self.asked.append(("decode", batch, context))
        return 5.0

    def mixed(self, tokens: int, prefix: int, batch: int, context: float, prompts: int = 1) -> float:
        self.asked.append(("mixed", tokens, prefix, batch, context, prompts))
        return 40.0

    def kv_capacity(self) -> int:
        return 10 * SIZE + 1


class Rig:
    """A scheduler with a virtual executor whose time passes by its sleeps alone."""

    def __init__(self, num_blocks: int = 32, budget: int = 512) -> None:
        self.slept: list[float] = []
        layout = KVLayout(num_blocks, SIZE, BLOCK_BYTES, "f")
        self.executor = VirtualExecutor(
            Recorder(),
            layout,
            memoryview(bytearray(num_blocks * BLOCK_BYTES)),
            vocab_size=1000,
            sleep=self.slept.append,
            clock=lambda: sum(self.slept),
        )
        self.scheduler = Scheduler(SchedulerConfig(num_blocks, SIZE, max_num_batched_tokens=budget))
        self.answers: dict[str, list[int]] = {}

    def add(self, name: str, prompt: list[int], *, ticket: Ticket | None = None, hold: bool = False) -> Sequence:
        tokens = prompt + ([ticket.first.token] if ticket else [])
        sampling = SamplingParams(12, seed=5)
        sequence = Sequence(name, tokens, len(prompt), sampling, 0.0, b"", ticket=ticket, hold=hold)
        self.scheduler.add(sequence)
        self.answers[name] = []
        return sequence

    def step(self) -> tuple[Fetch, ...]:
        plan = self.scheduler.schedule(0.0)
        if plan.batch.chunks:
            for output in self.scheduler.step_done(plan.batch, self.executor.execute(plan.batch), 0.0):
                assert output.sampled is not None
                self.answers[output.sequence.id].append(output.sampled.token)
        return plan.fetches

    def run(self, *sequences: Sequence) -> None:
        while any(s.state is not State.DONE for s in sequences):
            self.step()


def answer(prompt: list[int]) -> list[int]:
    """Return what one sequence alone gets."""
    rig = Rig()
    rig.run(rig.add("a", prompt))
    return rig.answers["a"]


PROMPT = list(range(3, 13))


def test_it_is_an_executor() -> None:
    executor: Executor = Rig().executor
    assert executor.layout.block_bytes == BLOCK_BYTES
    assert len(executor.pool) == 32 * BLOCK_BYTES


def test_an_answer_depends_on_every_token_and_on_the_seed_unless_greedy() -> None:
    def first(prompt: list[int], sampling: SamplingParams) -> int:
        executor = Rig().executor
        sequence = Sequence("a", prompt, len(prompt), sampling, 0.0, b"", blocks=[0, 1, 2])
        [token] = executor.execute(Batch((Chunk(sequence, 0, len(prompt), True),)))
        assert token is not None
        return token.token

    warm, greedy = SamplingParams(1, seed=1), SamplingParams(1, temperature=0.0, seed=1)
    assert first(PROMPT, warm) == first(PROMPT, warm) != first(PROMPT, SamplingParams(1, seed=2))
    assert first(PROMPT, greedy) == first(PROMPT, SamplingParams(1, temperature=0.0, seed=2))
    assert len({first([*PROMPT[:i], 99, *PROMPT[i + 1 :]], greedy) for i in range(10)}) == 10


def test_the_route_does_not_change_the_answer() -> None:
    whole = answer(PROMPT)
    assert len(whole) == 12 and len(set(whole)) > 6
    chunked = Rig(budget=3)
    chunked.run(chunked.add("a", PROMPT), chunked.add("b", PROMPT), chunked.add("c", PROMPT[::-1]))
    assert chunked.answers == {"a": whole, "b": whole, "c": answer(PROMPT[::-1])}
    cramped = Rig(num_blocks=8)
    cramped.run(*(cramped.add(name, PROMPT) for name in "abc"))
    assert cramped.scheduler.stats().preemptions > 0
    assert all(tokens == whole for tokens in cramped.answers.values())


def handoff(damage: bool) -> tuple[Rig, Sequence]:
    """Prefill on one rig, copy the blocks to another (one wrongly when `damage`), and start to decode there."""
    p, d = Rig(), Rig()
    d.run(d.add("other", PROMPT[::-1]))
    source = p.add("a", PROMPT, hold=True)
    p.step()
    first = SampledToken(p.answers["a"][0])
    blocks = tuple(source.blocks)
    ticket = Ticket("t", "e", 0, "f", SIZE, tuple(PROMPT), blocks, first, 5, "", {}, 1.0, 1.0)
    target = d.add("a", PROMPT, ticket=ticket)
    [fetch] = d.step()
    for remote, local in zip(fetch.remote, fetch.local, strict=True):
        wrong = 1 if damage and remote == fetch.remote[0] else 0
        start = (remote + wrong) * BLOCK_BYTES
        d.executor.pool[local * BLOCK_BYTES : (local + 1) * BLOCK_BYTES] = p.executor.pool[start : start + BLOCK_BYTES]
    d.answers["a"] = [o.sampled.token for o in d.scheduler.remote_ready("a", 0.0) if o.sampled]
    return d, target


def test_a_handoff_does_not_change_the_answer() -> None:
    d, target = handoff(damage=False)
    d.run(target)
    assert d.answers["a"] == answer(PROMPT)
    assert target.external_tokens == len(PROMPT)


def test_a_wrong_transfer_is_an_error() -> None:
    d, _ = handoff(damage=True)
    with pytest.raises(KVError, match="'a' reads wrong KV at position 0 in block"):
        d.step()


def test_a_block_with_two_writers_is_an_error() -> None:
    executor = Rig().executor
    sampling = SamplingParams(1)
    a = Sequence("a", [1, 2, 3], 3, sampling, 0.0, b"", blocks=[4])
    b = Sequence("b", [1, 2, 4], 3, sampling, 0.0, b"", blocks=[4])
    with pytest.raises(
        KVError, match="'a' reads wrong KV at position 2 in block 4: it wants token 3 and finds token 4"
    ):
        executor.execute(Batch((Chunk(a, 0, 3, True), Chunk(b, 0, 3, True))))


def test_an_overwritten_block_is_an_error() -> None:
    rig = Rig()
    sequence = rig.add("a", PROMPT)
    rig.step()
    start = sequence.blocks[1] * BLOCK_BYTES
    rig.executor.pool[start : start + 1] = b"\x00"
    with pytest.raises(KVError, match="position 4"):
        rig.step()


def test_a_step_takes_the_oracles_time() -> None:
    rig = Rig()
    rig.add("a", PROMPT)
    rig.step()
    rig.step()
    assert rig.slept == pytest.approx([0.03, 0.005])


def test_time_spent_computing_is_not_slept_again() -> None:
    times = iter([10.0, 10.02, 10.03, 20.0, 20.9, 20.9])
    slept: list[float] = []
    pool = memoryview(bytearray(4 * BLOCK_BYTES))
    layout = KVLayout(4, SIZE, BLOCK_BYTES, "f")
    executor = VirtualExecutor(Recorder(), layout, pool, vocab_size=9, sleep=slept.append, clock=lambda: next(times))
    batch = Batch((Chunk(Sequence("a", PROMPT, 10, SamplingParams(1), 0.0, b"", blocks=[0, 1, 2]), 0, 10, True),))
    executor.execute(batch)
    executor.execute(batch)
    assert slept == [pytest.approx(0.01), 0.0]


def test_a_step_that_comes_at_once_follows_the_one_before_and_lateness_is_counted() -> None:
    """The host's time between two steps is hidden, as an engine hides it; an idle GPU begins when it is asked."""
    #        ready, worked, ended: in time | 1.5 ms after, so due 10.06, ends 4 ms late | 3 ms after that: from then on
    times = iter([10.0, 10.01, 10.03, 10.0315, 10.04, 10.064, 10.067, 10.068, 10.097])
    slept: list[float] = []
    pool = memoryview(bytearray(4 * BLOCK_BYTES))
    layout = KVLayout(4, SIZE, BLOCK_BYTES, "f")
    executor = VirtualExecutor(Recorder(), layout, pool, vocab_size=9, sleep=slept.append, clock=lambda: next(times))
    batch = Batch((Chunk(Sequence("a", PROMPT, 10, SamplingParams(1), 0.0, b"", blocks=[0, 1, 2]), 0, 10, True),))
    for _ in range(3):
        executor.execute(batch)
    assert slept == [pytest.approx(0.02), pytest.approx(0.02), pytest.approx(0.029)]
    assert sum(executor.lag.counts) == 3 and executor.lag.total == pytest.approx(0.004)
    late = {bound: count for bound, count in zip(BOUNDS_S, executor.lag.counts, strict=False) if count}
    assert late == {0.0002: 2, 0.005: 1}


def test_the_oracle_is_asked_for_what_a_batch_holds() -> None:
    oracle = Recorder()
    sequence = Sequence("a", list(range(100)), 100, SamplingParams(1), 0.0, b"")
    decodes = (Chunk(sequence, 10, 1, True), Chunk(sequence, 30, 1, True))
    prompts = (Chunk(sequence, 0, 8, True), Chunk(sequence, 16, 32, False))
    assert step_ms(oracle, Batch(())) == 0.0
    for chunks in (decodes, prompts[1:], prompts, decodes + prompts):
        step_ms(oracle, Batch(chunks))
    assert oracle.asked == [
        ("decode", 2, 20.0),
        ("prefill", 1, 32, 16),
        ("mixed", 40, 16, 0, 0.0, 2),
        ("mixed", 40, 16, 2, 20.0, 2),
    ]


def test_logprobs_are_those_of_certainty() -> None:
    executor = Rig().executor
    for wanted, count in ((0, 0), (3, 1)):
        sampling = SamplingParams(1, logprobs=wanted)
        sequence = Sequence("a", PROMPT, 10, sampling, 0.0, b"", blocks=[0, 1, 2])
        [token] = executor.execute(Batch((Chunk(sequence, 0, 10, True),)))
        assert token is not None and token.logprob == 0.0
        assert token.top == ((token.token, 0.0),) * count


def test_an_answer_never_contains_an_end_token() -> None:
    pool = memoryview(bytearray(4 * BLOCK_BYTES))
    layout = KVLayout(4, SIZE, BLOCK_BYTES, "f")
    executor = VirtualExecutor(
        Recorder(), layout, pool, vocab_size=3, eos_token_ids=frozenset({0, 2}), sleep=lambda _: None
    )
    for seed in range(20):
        sequence = Sequence("a", PROMPT, 10, SamplingParams(1, seed=seed), 0.0, b"", blocks=[0, 1, 2])
        assert executor.execute(Batch((Chunk(sequence, 0, 10, True),))) == [SampledToken(1)]
    with pytest.raises(ValueError, match="none to answer with"):
        VirtualExecutor(Recorder(), layout, pool, vocab_size=1, eos_token_ids=frozenset({0}))


def test_a_built_executor_takes_what_fits_and_lets_go_of_its_pool(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    pools: list[bytearray] = []

    def allocate(nbytes: int) -> memoryview:
        pools.append(bytearray(nbytes))
        return memoryview(pools[0])

    def build(num_blocks: int, dtype: str = "bf16") -> VirtualExecutor:
        return build_virtual_executor(
            Recorder(),
            model_dir=tmp_path,
            dtype=dtype,
            block_size=SIZE,
            num_blocks=num_blocks,
            vocab_size=10,
            pool_factory=allocate,
        )

    executor = build(0)
    assert executor.layout.num_blocks == 10
    assert executor.layout.fingerprint == build(3).layout.fingerprint != build(3, "fp32").layout.fingerprint
    executor.close()
    executor.pool.release()
    pools[0].append(0)  # raises BufferError while an array still looks at it


def test_a_layout_of_other_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes a token"):
        VirtualExecutor(Recorder(), KVLayout(1, SIZE, 1, "f"), memoryview(bytearray(64)), vocab_size=9)
