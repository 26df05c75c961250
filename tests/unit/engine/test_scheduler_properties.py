from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tercet.core.errors import RequestError
from tercet.core.sampling import SamplingParams
from tercet.engine.scheduler import SchedulerConfig
from tercet.engine.sequence import Sequence, State
from tests.unit.engine.toy_engine import EOS, VOCABULARY, ToyEngine

CONFIGS = st.builds(
    SchedulerConfig,
    num_blocks=st.integers(4, 24),
    block_size=st.integers(1, 4),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(1, 16),
    max_model_len=st.integers(12, 48),
    lease_s=st.just(5.0),
    eos_token_ids=st.just(frozenset({EOS})),
    prefix_caching=st.sampled_from([True, True, False]),
)
# Few distinct prefixes, so that sequences share blocks.
PROMPTS = st.builds(
    lambda stem, tail: [stem] * 6 + tail,
    st.integers(0, 1),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=16),
) | st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8)
SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 30),
    ignore_eos=st.sampled_from([True, True, True, False]),
    min_tokens=st.integers(0, 3),
    stop_token_ids=st.sampled_from([frozenset(), frozenset(), frozenset(), frozenset({3})]),
)
ARRIVALS = st.tuples(
    PROMPTS,
    SAMPLING,
    st.sampled_from(["whole", "whole", "hold", "remote", "remote"]),
    st.sampled_from([b"root", b"root", b"root", b"salt"]),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Anything may happen in any order; the toy engine checks every read, write, output and count."""

    @initialize(config=CONFIGS)
    def start(self, config: SchedulerConfig) -> None:
        self.engine = ToyEngine(config)

    @rule(arrivals=st.lists(ARRIVALS, min_size=1, max_size=4))
    def add(self, arrivals: list[tuple[list[int], SamplingParams, str, bytes]]) -> None:
        for prompt, sampling, kind, root in arrivals:
            fits = len(prompt) < self.engine.config.max_len
            try:
                self.engine.add(prompt, sampling, hold=kind == "hold", remote=kind == "remote", root=root)
            except RequestError as error:
                assert not fits and error.status == 400 and error.code == "context_length_exceeded"
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
    @rule(steps=st.integers(1, 12))
    def steps(self, steps: int) -> None:
        for _ in range(steps):
            self.engine.step()
            self.engine.check()

    @precondition(lambda self: self.engine.executing is None and self.engine.live())
    @rule(patience=st.integers(0, 8), steps=st.integers(1, 30))
    def leap(self, patience: int, steps: int) -> None:
        for _ in range(patience):
            if self.engine.scheduler.uneventful_steps():
                break
            self.engine.step()
        self.engine.leap(steps)

    @precondition(lambda self: self.engine.fetches)
    @rule(data=st.data(), ready=st.sampled_from([True, True, False]))
    def end_fetch(self, data: st.DataObject, ready: bool) -> None:
        self.engine.end_fetch(data.draw(st.sampled_from(sorted(self.engine.fetches))), ready)

    @precondition(lambda self: self.engine.live())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence_id = data.draw(st.sampled_from([s.id for s in self.engine.live()]))
        self.engine.cancel(sequence_id)
        self.engine.cancel(sequence_id)

    @precondition(lambda self: self.engine.live())
    @rule(data=st.data(), renew=st.booleans())
    def release_or_renew(self, data: st.DataObject, renew: bool) -> None:
        s = data.draw(st.sampled_from(self.engine.live()))
        held = s.state is State.HELD
        if renew:
            assert self.engine.scheduler.renew(s.id, self.engine.now + 7.0) == held
        else:
            assert self.engine.scheduler.release(s.id) == held
            assert not self.engine.scheduler.release(s.id)

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.engine.now += seconds
        self.engine.expire()

    @rule()
    def reset_cache(self) -> None:
        self.engine.scheduler.reset_cache()
        assert self.engine.scheduler.stats().blocks_cached == 0

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        engine = self.engine
        tokens = sum(s.limit for s in engine.live())
        steps = engine.drain()
        assert steps <= 10 + 4 * tokens, "every admitted sequence ends soon"
        engine.now += 100.0
        engine.expire()
        assert not engine.live()
        assert engine.scheduler.stats().blocks_in_use == 0
        engine.check_answers()


SchedulerMachine.TestCase.settings = settings(max_examples=70, stateful_step_count=40, deadline=None)
TestScheduler = SchedulerMachine.TestCase


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=CONFIGS, prompt=PROMPTS, sampling=SAMPLING, remote=st.booleans(), seed=st.integers(0, 10**6))
def test_a_sequence_ends_however_many_come_after_it(
    config: SchedulerConfig, prompt: list[int], sampling: SamplingParams, remote: bool, seed: int
) -> None:
    engine = ToyEngine(config)
    try:
        first = engine.add(prompt, sampling, remote=remote)
    except RequestError:
        return
    step = 0
    while first.state is not State.DONE:
        step += 1
        assert step <= 10 + 3 * first.limit
        _later_arrivals(engine, seed + step)
        engine.step()
        for sequence_id in list(engine.fetches):
            engine.end_fetch(sequence_id, ready=(seed + step) % 2 == 0)
        engine.now += 1.0
        engine.expire()
        engine.check()


def _later_arrivals(engine: ToyEngine, number: int) -> None:
    for i in range(2):
        prompt = [(number + i) % VOCABULARY] * min(1 + (number * 7 + i) % 12, engine.config.max_len - 1)
        engine.add(prompt, SamplingParams(20, ignore_eos=True), remote=i == 1, hold=i == 0 and number % 3 == 0)


@settings(max_examples=100, deadline=None)
@given(config=CONFIGS, prompts=st.lists(PROMPTS, min_size=1, max_size=8))
def test_local_sequences_of_one_length_end_in_order_of_arrival(
    config: SchedulerConfig, prompts: list[list[int]]
) -> None:
    engine = ToyEngine(config)
    added: list[Sequence] = []
    for prompt in prompts:
        if len(prompt) < config.max_len:
            added.append(engine.add(prompt, SamplingParams(1, ignore_eos=True)))
    engine.drain()
    assert list(engine.reasons) == [s.id for s in added]
