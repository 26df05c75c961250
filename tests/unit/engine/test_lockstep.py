from __future__ import annotations

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tercet.core.sampling import SampledToken, SamplingParams
from tercet.engine.scheduler import Scheduler, SchedulerConfig
from tercet.engine.sequence import Batch, Output, Schedule, Sequence, State
from tests.unit.engine.toy_engine import future, next_token, portrait, ticket_for

CONFIGS = st.builds(
    SchedulerConfig,
    num_blocks=st.integers(5, 24),
    block_size=st.integers(1, 4),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(1, 16),
    max_model_len=st.just(40),
    lease_s=st.just(5.0),
    prefix_caching=st.sampled_from([True, True, False]),
)
KINDS = st.sampled_from(["whole", "whole", "hold", "remote", "remote"])
ROOTS = st.sampled_from([b"root", b"root", b"salt"])


class RoundsMachine(RuleBasedStateMachine):
    """One scheduler in steps, one in rounds: the same happens to both, and whatever it is they stay alike."""

    @initialize(config=CONFIGS)
    def start(self, config: SchedulerConfig) -> None:
        self.config = config
        self.stepping, self.counting = Scheduler(config), Scheduler(config, tokens=future)
        self.batches: tuple[Batch, Batch] | None = None
        self.fetches: list[str] = []
        self.ids: list[str] = []
        self.now = 0.0

    @rule(stem=st.integers(0, 1), length=st.integers(1, 12), answer=st.integers(1, 14), kind=KINDS, root=ROOTS)
    def add(self, stem: int, length: int, answer: int, kind: str, root: bytes) -> None:
        length = min(length, self.config.max_len - 1)
        prompt = [stem] * length
        ticket = ticket_for(prompt, self.config.block_size) if kind == "remote" else None
        tokens = [*prompt, ticket.first.token] if ticket else prompt
        for scheduler in (self.stepping, self.counting):
            sampling = SamplingParams(answer, ignore_eos=True)
            name, hold = f"s{len(self.ids)}", kind == "hold"
            scheduler.add(Sequence(name, [*tokens], length, sampling, 0.0, root, hold=hold, ticket=ticket))
        self.ids.append(f"s{len(self.ids)}")

    @precondition(lambda self: self.batches is None)
    @rule()
    def begin(self) -> None:
        step, round_ = self.stepping.schedule(self.now), self.counting.schedule_round(self.now)
        self._alike(step, round_)
        self.fetches += [fetch.sequence.id for fetch in step.fetches]
        if step.batch.chunks:
            self.batches = step.batch, round_.batch

    def _alike(self, step: Schedule, round_: Schedule) -> None:
        listed = {chunk.sequence.id: chunk[1:] for chunk in round_.batch.chunks}
        counted = [chunk for chunk in step.batch.chunks if chunk.sequence.id not in listed]
        assert {c.sequence.id: c[1:] for c in step.batch.chunks if c.sequence.id in listed} == listed
        assert all(chunk.length == 1 and chunk.samples for chunk in counted)
        assert round_.batch.decodes == len(counted)
        assert round_.batch.context == sum(chunk.start for chunk in counted)
        assert round_.batch.num_tokens == step.batch.num_tokens
        fetches = [[(f.sequence.id, f.remote, f.local) for f in plan.fetches] for plan in (step, round_)]
        assert fetches[0] == fetches[1]

    @precondition(lambda self: self.batches is not None)
    @rule()
    def end(self) -> None:
        assert self.batches is not None
        told = []
        for scheduler, batch in zip((self.stepping, self.counting), self.batches, strict=True):
            sampled = [
                SampledToken(next_token(c.sequence.tokens[: c.start + c.length])) if c.samples else None
                for c in batch.chunks
            ]
            told.append(news(scheduler.step_done(batch, sampled, self.now)))
        self.batches = None
        assert told[0] == told[1]

    @precondition(lambda self: self.batches is None)
    @rule(steps=st.integers(1, 9))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.begin()
            if self.batches is not None:
                self.end()

    @precondition(lambda self: self.batches is None)
    @rule(steps=st.integers(1, 12))
    def leap(self, steps: int) -> None:
        steps = min(steps, self.counting.uneventful_steps())
        self.counting.advance(steps)
        for _ in range(steps):
            batch = self.stepping.schedule(self.now).batch
            sampled = [SampledToken(next_token(chunk.sequence.tokens)) for chunk in batch.chunks]
            assert news(self.stepping.step_done(batch, sampled, self.now)) == []

    @precondition(lambda self: self.fetches)
    @rule(data=st.data(), ready=st.sampled_from([True, True, False]))
    def end_fetch(self, data: st.DataObject, ready: bool) -> None:
        name = data.draw(st.sampled_from(self.fetches))
        self.fetches.remove(name)
        told = [
            news((scheduler.remote_ready if ready else scheduler.remote_failed)(name, self.now))
            for scheduler in (self.stepping, self.counting)
        ]
        assert told[0] == told[1]

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def cancel_or_release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.ids))
        if data.draw(st.booleans()):
            assert self.stepping.release(name) == self.counting.release(name)
        else:
            assert (self.stepping.cancel(name) is None) == (self.counting.cancel(name) is None)

    @rule()
    def wait(self) -> None:
        self.now += 6.0
        assert len(self.stepping.expire(self.now)) == len(self.counting.expire(self.now))

    @rule()
    def reset_cache(self) -> None:
        assert self.stepping.reset_cache() == self.counting.reset_cache()

    @precondition(lambda self: self.batches is None)
    @rule()
    def step_after_rounds(self) -> None:
        step, other = self.stepping.schedule(self.now), self.counting.schedule(self.now)
        assert [c[1:] for c in step.batch.chunks] == [c[1:] for c in other.batch.chunks]
        self.fetches += [fetch.sequence.id for fetch in step.fetches]
        if step.batch.chunks:
            self.batches = step.batch, other.batch

    @invariant()
    def alike(self) -> None:
        if not hasattr(self, "stepping"):
            return
        caught_up = copy.deepcopy(self.counting)  # a copy, so that the other stays behind
        caught_up.catch_up()
        want, got = portrait(self.stepping), portrait(caught_up)
        assert {key: got[key] for key in got if got[key] != want[key]} == {}


def news(outputs: list[Output]) -> list[tuple[str, str | None, int | None]]:
    """Return the outputs that rounds tell of: answers that begin or end, and what is held."""
    return [
        (sequence.id, reason, sampled.token if sampled else None)
        for sequence, sampled, reason in outputs
        if reason or sequence.state is State.HELD or len(sequence.tokens) == sequence.prompt_len + 1
    ]


RoundsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRounds = RoundsMachine.TestCase
