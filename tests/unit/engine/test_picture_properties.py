"""Pictures in the scheduler, under any order of events: no leak, no starvation, no wrong rows, no deadlock."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tercet.core.errors import RequestError
from tercet.core.image import ImageSpan
from tercet.core.image_ticket import blocks_for_rows
from tercet.core.sampling import SamplingParams
from tercet.engine.embedding_pool import EmbeddingPool
from tercet.engine.scheduler import SchedulerConfig
from tercet.engine.sequence import State
from tests.unit.engine.toy_engine import EOS, ToyEngine

ROWS = {"0": 1, "1": 3, "2": 16, "3": 17, "4": 5, "5": 20}
"""Each picture's rows: fewer than a block, a whole one, more."""
KEYS = st.sampled_from(sorted(ROWS))
CONFIGS = st.builds(
    SchedulerConfig,
    num_blocks=st.integers(8, 40),
    block_size=st.integers(1, 4),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(1, 24),
    max_model_len=st.integers(24, 90),
    lease_s=st.just(5.0),
    eos_token_ids=st.just(frozenset({EOS})),
    prefix_caching=st.sampled_from([True, True, False]),
)
POOLS = st.tuples(st.integers(2, 6), st.integers(0, 6), st.booleans())
SAMPLING = st.builds(SamplingParams, max_tokens=st.integers(1, 20), ignore_eos=st.just(True))
PROMPTS = st.tuples(
    st.lists(st.one_of(KEYS, st.integers(0, 1)), min_size=1, max_size=8),
    st.sampled_from(["all", "all", "all", "some", "none"]),
    st.sampled_from(["whole", "whole", "hold", "remote", "remote"]),
)


def lay_out(parts: list[str | int]) -> tuple[list[int], tuple[ImageSpan, ...]]:
    """Return tokens and spans: a number stands for three tokens of text, a key for its picture's rows."""
    tokens: list[int] = []
    images: list[ImageSpan] = []
    for part in parts:
        if isinstance(part, str):
            images.append(ImageSpan(part, len(tokens), ROWS[part]))
            tokens += [0] * ROWS[part]
        else:
            tokens += [part, 2, 3]
    return [*tokens, 4], tuple(images)


class PictureMachine(RuleBasedStateMachine):
    """The toy engine checks every read, write and count; here it gets pictures, loads that fail, and encoded ones."""

    @initialize(config=CONFIGS, pool=POOLS)
    def start(self, config: SchedulerConfig, pool: tuple[int, int, bool]) -> None:
        reserve, more, keep = pool
        self.engine = ToyEngine(config, EmbeddingPool(reserve + more, reserve=reserve, keep=keep))

    @rule(prompts=st.lists(st.tuples(PROMPTS, SAMPLING), min_size=1, max_size=4), odd=st.booleans())
    def add(self, prompts: list[tuple[tuple[list[str | int], str, str], SamplingParams]], odd: bool) -> None:
        for (parts, tickets, kind), sampling in prompts:
            prompt, images = lay_out(parts)
            named = {"all": frozenset(ROWS), "none": frozenset(), "some": frozenset(sorted(ROWS)[odd::2])}[tickets]
            rows = {image.key: image.length for image in images}
            needed = sum(map(blocks_for_rows, rows.values()))
            fits = len(prompt) < self.engine.config.max_len and needed <= self.engine.embeddings.reserve
            try:
                self.engine.add(
                    prompt, sampling, hold=kind == "hold", remote=kind == "remote", images=images, sources=named
                )
            except RequestError as error:
                assert not fits and error.status == 400
            else:
                assert fits

    @precondition(lambda self: self.engine.executing is None)
    @rule()
    def begin(self) -> None:
        self.engine.begin_step()

    @precondition(lambda self: self.engine.executing is not None)
    @rule()
    def end(self) -> None:
        self.engine.end_step()

    @precondition(lambda self: self.engine.executing is None and self.engine.live())
    @rule(steps=st.integers(1, 12), wanted=st.integers(0, 12))
    def steps(self, steps: int, wanted: int) -> None:
        for _ in range(steps):
            self.engine.step()
            self.engine.check()
        self.engine.leap(wanted)

    @precondition(lambda self: self.engine.loads)
    @rule(data=st.data(), ready=st.sampled_from([True, True, False]))
    def end_load(self, data: st.DataObject, ready: bool) -> None:
        self.engine.end_load(data.draw(st.sampled_from(sorted(self.engine.loads))), ready)

    @precondition(lambda self: self.engine.fetches)
    @rule(data=st.data(), ready=st.booleans())
    def end_fetch(self, data: st.DataObject, ready: bool) -> None:
        self.engine.end_fetch(data.draw(st.sampled_from(sorted(self.engine.fetches))), ready)

    @rule(key=KEYS)
    def encode(self, key: str) -> None:
        self.engine.encode(key, ROWS[key])

    @precondition(lambda self: self.engine.leases)
    @rule()
    def end_leases(self) -> None:
        self.engine.end_leases()

    @precondition(lambda self: self.engine.live())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.engine.cancel(data.draw(st.sampled_from([s.id for s in self.engine.live()])))

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.engine.now += seconds
        self.engine.expire()

    @rule()
    def reset_cache(self) -> None:
        self.engine.scheduler.reset_cache()

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()

    def teardown(self) -> None:
        """Everything ends, even while the encoder's leases stay: they alone never keep a prompt out."""
        if not hasattr(self, "engine"):
            return
        engine = self.engine
        tokens = sum(s.limit for s in engine.live())
        steps = engine.drain()
        assert steps <= 20 + 6 * tokens
        engine.now += 100.0
        engine.expire()
        assert not engine.live()
        engine.end_leases()
        assert engine.scheduler.stats().blocks_in_use == 0
        assert engine.embeddings.in_use == 0
        engine.embeddings.forget_idle()
        assert engine.embeddings.occupied == 0
        engine.check_answers()


PictureMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestPictures = PictureMachine.TestCase


def test_first_come_first_served_when_the_pool_is_full() -> None:
    """A prompt that waits for room for its pictures is not passed by one whose pictures are small."""
    config = SchedulerConfig(num_blocks=64, block_size=4, max_num_batched_tokens=64, max_model_len=64)
    engine = ToyEngine(config, EmbeddingPool(3, reserve=3))
    sampling = SamplingParams(max_tokens=2, ignore_eos=True)
    order = []
    wanted: list[list[str | int]] = [["2", "3"], ["5", 1], ["0"], [1]]
    for parts in wanted:
        prompt, images = lay_out(parts)  # 1 + 2, 2, 1 and no blocks
        order.append(engine.add(prompt, sampling, images=images, sources=frozenset(ROWS)))
    engine.begin_step()
    assert sorted(engine.loads) == ["2", "3"]
    assert [s.state for s in order] == [State.WAITING_REMOTE, *[State.WAITING] * 3]
    for key in ("2", "3"):
        engine.end_load(key, ready=True)
    steps = 0
    while engine.reasons.keys() != {s.id for s in order}:
        engine.step()
        for key in list(engine.loads):
            engine.end_load(key, ready=True)
        steps += 1
        assert steps < 30
    engine.check_answers()
    assert engine.embeddings.misses == 4
