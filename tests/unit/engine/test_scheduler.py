from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tercet.core.errors import RequestError, UsageError
from tercet.core.sampling import SampledToken, SamplingParams
from tercet.engine.scheduler import Scheduler, SchedulerConfig
from tercet.engine.sequence import Batch, Sequence, State
from tests.unit.engine.toy_engine import EOS, ToyEngine, next_token, ticket_for

LONG = SamplingParams(100, ignore_eos=True)
FIXED = [3, 7, 4, 1, 0, 0]
ANSWER = [0, 2, 7, 0, 5, 3, 2, 0, 5, 3, 5, 1, 7]  # what the toy model says to that


def engine(**settings: Any) -> ToyEngine:
    defaults: dict[str, Any] = {"num_blocks": 32, "block_size": 4, "max_num_batched_tokens": 16, "max_model_len": 100}
    return ToyEngine(SchedulerConfig(**{**defaults, **settings}))


def prompt(length: int, start: int = 0) -> list[int]:
    return [(start + i) % 8 for i in range(length)]


def shares(batch: Batch) -> list[tuple[str, int, int, bool]]:
    return [(c.sequence.id, c.start, c.length, c.samples) for c in batch.chunks]


def test_decodes_go_first_and_prompts_fill_the_budget_in_order_of_arrival() -> None:
    e = engine()
    e.add(prompt(6), LONG)
    e.step()
    for start in (1, 2, 3):
        e.add(prompt(10, start), LONG)
    assert shares(e.begin_step()) == [("s0", 6, 1, True), ("s1", 0, 10, True), ("s2", 0, 5, False)]
    e.end_step()
    assert shares(e.begin_step()) == [
        ("s0", 7, 1, True),
        ("s1", 10, 1, True),
        ("s2", 5, 5, True),
        ("s3", 0, 9, False),
    ]


def test_a_long_prompt_is_computed_in_chunks_and_samples_once() -> None:
    e = engine()
    e.add(prompt(40), LONG)
    chunks = [shares(e.begin_step())[0][1:] for _ in range(3) if e.executing is None or e.end_step() is not None]
    assert chunks == [(0, 16, False), (16, 16, False), (32, 8, True)]


def test_no_more_sequences_run_than_may() -> None:
    e = engine(max_num_seqs=2)
    for i in range(3):
        e.add(prompt(2, i), SamplingParams(3, ignore_eos=True))
    assert len(e.begin_step().chunks) == 2
    assert e.scheduler.stats().waiting == 1
    e.end_step()
    e.drain()
    assert list(e.reasons) == ["s0", "s1", "s2"]


def test_a_token_of_every_step_is_left_for_prompts() -> None:
    e = engine(max_num_seqs=8, max_num_batched_tokens=3)
    for i in range(8):
        e.add(prompt(1, i), LONG)
    late = e.add(prompt(10), LONG, remote=True)
    for _ in range(10):
        e.step()
    assert e.scheduler.stats().running == 2 and late.state is State.WAITING_REMOTE


def test_a_cached_prefix_is_not_computed_again_but_the_last_token_is() -> None:
    e = engine(num_blocks=64)
    e.add(prompt(12), SamplingParams(1))
    e.drain()
    again, longer = e.add(prompt(12), LONG), e.add(prompt(13), LONG)
    other = e.add(prompt(12), LONG, root=b"salt")
    assert shares(e.begin_step()) == [(again.id, 8, 4, True), (longer.id, 12, 1, True), (other.id, 0, 11, False)]
    assert (again.cached_tokens, longer.cached_tokens, other.cached_tokens) == (8, 12, 0)
    stats = e.scheduler.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (12 + 12 + 13 + 12, 20)


def test_without_prefix_caching_nothing_is_found() -> None:
    e = engine(prefix_caching=False)
    e.add(prompt(12), SamplingParams(1))
    e.drain()
    again = e.add(prompt(12), LONG)
    e.step()
    assert again.cached_tokens == 0
    assert e.scheduler.stats().blocks_cached == 0


def test_answers_enter_the_cache_for_the_next_turn() -> None:
    e = engine()
    e.add(prompt(6), SamplingParams(7, ignore_eos=True))
    e.drain()
    second = e.add(prompt(6) + e.answers["s0"] + [1, 2], LONG)
    e.step()
    assert second.cached_tokens == 12  # the last of 13 tokens was never computed


def test_blocks_are_shared_as_soon_as_they_are_computed() -> None:
    e = engine()
    e.add(prompt(40), LONG)
    e.step()
    late = e.add(prompt(40), LONG)
    e.step()
    e.step()
    assert late.cached_tokens == 32


def test_the_least_recently_used_prefix_makes_room() -> None:
    e = engine(num_blocks=8)
    for start in (0, 1):
        e.add(prompt(12, start), SamplingParams(1))
        e.drain()
    e.add(prompt(9, 2), SamplingParams(1))  # takes the two free blocks and the last block of the oldest prefix
    e.drain()
    old, new = e.add(prompt(12, 0), SamplingParams(1)), e.add(prompt(13, 1), SamplingParams(1))
    e.begin_step()
    assert (old.cached_tokens, new.cached_tokens) == (8, 12)


def test_the_latest_arrival_is_preempted_and_loses_no_token() -> None:
    e = engine(num_blocks=8)
    first, second = e.add(prompt(12), LONG), e.add(prompt(12, 3), LONG)
    while not second.preemptions:
        e.step()
    assert first.preemptions == 0 and second.state is State.PREEMPTED
    assert e.scheduler.stats().preempted == 1 and e.scheduler.stats().preemptions == 1
    had = list(e.answers["s1"])
    assert had and second.tokens[12:] == had
    assert second.blocks == [] and second.computed == 0
    e.cancel("s0")
    batch = e.begin_step()
    assert shares(batch)[0][0] == "s1" and batch.chunks[0].samples
    assert second.cached_tokens == 0, "what a preempted sequence finds of its own is no hit"
    e.end_step()
    e.drain()
    e.check_answers()


def test_a_sequence_that_wants_the_whole_pool_ends_at_its_size() -> None:
    e = engine(num_blocks=4)
    e.add(prompt(3), LONG)
    e.drain()
    assert e.reasons == {"s0": "length"} and len(e.answers["s0"]) == 13


@pytest.mark.parametrize(
    ("sampling", "count", "reason"),
    [
        (SamplingParams(3, ignore_eos=True), 3, "length"),
        (SamplingParams(1), 1, "length"),
        (SamplingParams(500, ignore_eos=True), 94, "length"),
        (SamplingParams(500), 3, "stop"),
        (SamplingParams(500, min_tokens=3), 3, "stop"),
        (SamplingParams(500, min_tokens=4), 13, "stop"),
        (SamplingParams(500, ignore_eos=True, stop_token_ids=frozenset({2})), 2, "stop"),
        (SamplingParams(2, stop_token_ids=frozenset({2})), 2, "stop"),
    ],
)
def test_how_an_answer_ends(sampling: SamplingParams, count: int, reason: str) -> None:
    e = engine(eos_token_ids=frozenset({EOS}))
    sequence = e.add(FIXED, sampling)
    e.drain()
    assert e.answers["s0"][:13] == ANSWER[:count]
    assert (len(e.answers["s0"]), sequence.finish_reason) == (count, reason)


@pytest.mark.parametrize(("length", "settings"), [(100, {}), (0, {}), (16, {"num_blocks": 4})])
def test_a_prompt_that_can_never_fit_is_refused_with_both_lengths(length: int, settings: dict[str, int]) -> None:
    e = engine(**settings)
    longest = e.config.max_len
    with pytest.raises(RequestError, match=f"{length} tokens.*{longest}") as caught:
        e.add(prompt(length), LONG)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    e.add(prompt(longest - 1), LONG)


def test_an_id_can_not_be_used_twice() -> None:
    e = engine()
    with pytest.raises(ValueError, match="s0"):
        e.scheduler.add(e.add(prompt(3), LONG))


@pytest.mark.parametrize("name", ["num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens"])
def test_limits_that_allow_nothing_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        engine(**{name: 0})


class TestHeld:
    def test_the_first_token_comes_out_and_the_blocks_stay(self) -> None:
        e = engine()
        s = e.add(prompt(10), LONG, hold=True)
        [output] = e.step()
        assert output.finish_reason is None and s.state is State.HELD and len(s.blocks) == 3
        assert s.lease_until == e.scheduler.next_deadline() == 30.0
        assert e.begin_step().chunks == ()
        stats = e.scheduler.stats()
        assert (stats.held, stats.running, stats.blocks_held, stats.uncompleted_tokens) == (1, 0, 3, 0)
        assert e.scheduler.release(s.id) and not e.scheduler.release(s.id)
        assert (s.state, e.scheduler.stats().blocks_in_use) == (State.DONE, 0)

    def test_an_answer_of_one_token_is_not_held(self) -> None:
        e = engine()
        s = e.add(prompt(10), SamplingParams(1), hold=True)
        [output] = e.step()
        assert output.finish_reason == "length" and s.state is State.DONE

    def test_a_lease_ends_unless_renewed(self) -> None:
        e = engine()
        a, b = e.add(prompt(5), LONG, hold=True), e.add(prompt(5, 1), LONG, hold=True)
        e.step()
        assert e.scheduler.renew(b.id, 50.0)
        assert e.scheduler.expire(29.9) == []
        assert e.scheduler.expire(30.0) == [a]
        assert (a.state, b.state) == (State.DONE, State.HELD) and e.scheduler.next_deadline() == 50.0
        assert not e.scheduler.renew(a.id, 60.0)
        assert e.scheduler.stats().expirations == 1

    def test_a_held_sequence_can_be_cancelled(self) -> None:
        e = engine()
        s = e.add(prompt(5), LONG, hold=True)
        e.step()
        e.cancel(s.id)
        assert e.scheduler.stats().blocks_in_use == 0 and e.scheduler.next_deadline() is None

    def test_held_blocks_count_against_the_pool(self) -> None:
        e = engine(num_blocks=4)
        held = e.add(prompt(8), LONG, hold=True)
        e.step()
        waiting = e.add(prompt(12, 1), LONG)
        assert e.step() == [] and waiting.state is State.WAITING
        e.scheduler.release(held.id)
        assert len(e.step()) == 1

    def test_a_sequence_leaving_to_be_held_makes_room_for_the_next(self) -> None:
        e = engine(num_blocks=4, max_num_batched_tokens=8)
        e.add(prompt(10), LONG, hold=True)
        e.add(prompt(2, 1), LONG, hold=True)
        # Beside three blocks and a spare one for the sequence that runs there is no room; once it is held there is.
        assert [len(e.step()) for _ in range(3)] == [0, 1, 1]


class TestRemote:
    def test_all_blocks_are_fetched_the_partial_last_one_too(self) -> None:
        e = engine()
        s = e.add(prompt(10), LONG, remote=True)
        e.begin_step()
        fetch = e.fetches[s.id]
        assert fetch.remote == (100, 101, 102) and list(fetch.local) == s.blocks
        assert s.state is State.WAITING_REMOTE and e.scheduler.stats().waiting_remote == 1
        [output] = e.end_fetch(s.id, ready=True)
        assert output.sampled == SampledToken(next_token(prompt(10))) and output.finish_reason is None
        assert (s.external_tokens, s.cached_tokens) == (10, 0)
        assert shares(e.begin_step()) == [(s.id, 10, 1, True)]
        e.end_step()
        e.drain()
        e.check_answers()

    def test_what_the_own_cache_holds_is_not_fetched(self) -> None:
        e = engine()
        e.add(prompt(9), SamplingParams(1))
        e.drain()
        s = e.add(prompt(10), LONG, remote=True)
        e.begin_step()
        assert e.fetches[s.id].remote == (102,)
        e.end_fetch(s.id, ready=True)
        assert (s.external_tokens, s.cached_tokens) == (2, 8)

    def test_when_nothing_is_lacking_the_fetch_is_empty_but_made(self) -> None:
        e = engine()
        e.add(prompt(9), SamplingParams(1))
        e.drain()
        s = e.add(prompt(8), LONG, remote=True)
        e.begin_step()
        assert e.fetches[s.id].remote == e.fetches[s.id].local == ()
        assert len(e.end_fetch(s.id, ready=True)) == 1
        assert shares(e.begin_step()) == [(s.id, 8, 1, True)]

    def test_fetched_blocks_enter_the_cache(self) -> None:
        e = engine()
        s = e.add(prompt(10), LONG, remote=True)
        e.step()
        e.end_fetch(s.id, ready=True)
        again = e.add(prompt(10), LONG)
        e.step()
        assert again.cached_tokens == 8

    @pytest.mark.parametrize("length", [8, 10])
    def test_after_a_failed_fetch_the_prompt_is_computed_and_the_first_token_kept(self, length: int) -> None:
        e = engine()
        s = e.add(prompt(length), LONG, remote=True)
        e.begin_step()
        [output] = e.end_fetch(s.id, ready=False)
        assert output.sampled == SampledToken(next_token(prompt(length)))
        assert s.external_tokens == 0 and e.scheduler.stats().remote_recomputes == 1
        assert e.begin_step().chunks[0].start == 0
        e.end_step()
        e.drain()
        e.check_answers()

    @pytest.mark.parametrize("ready", [True, False])
    def test_a_first_token_can_be_the_last(self, ready: bool) -> None:
        e = engine()
        s = e.add(prompt(10), SamplingParams(1), remote=True)
        e.begin_step()
        [output] = e.end_fetch(s.id, ready)
        assert output.finish_reason == "length" and s.state is State.DONE
        assert e.scheduler.stats().blocks_in_use == 0

    def test_a_ticket_waits_for_room_as_a_ticket(self) -> None:
        e = engine(num_blocks=4)
        e.add(prompt(9), LONG)
        e.step()
        s = e.add(prompt(8, 1), LONG, remote=True)
        assert e.step() and s.state is State.WAITING_REMOTE and not e.fetches
        e.cancel("s0")
        e.begin_step()
        assert e.fetches.keys() == {s.id}

    def test_a_fetch_needs_no_budget(self) -> None:
        e = engine()
        e.add(prompt(40), LONG)
        local, remote = e.add(prompt(10, 1), LONG), e.add(prompt(10, 2), LONG, remote=True)
        assert len(e.begin_step().chunks) == 1
        assert local.state is State.WAITING and e.fetches.keys() == {remote.id}

    def test_a_ticket_never_takes_the_room_of_one_before_it(self) -> None:
        e = engine(num_blocks=16)
        e.add(prompt(40), LONG)
        e.add(prompt(12, 1), LONG)
        e.add(prompt(10, 2), LONG, remote=True)  # fits beside either, not beside both and a block to grow into
        e.begin_step()
        assert e.fetches == {}

    def test_a_fetch_takes_a_seat(self) -> None:
        e = engine(max_num_seqs=1)
        s = e.add(prompt(10), LONG, remote=True)
        e.add(prompt(3), LONG)
        assert e.step() == e.step() == []
        e.cancel(s.id)
        assert len(e.begin_step().chunks) == 1

    @pytest.mark.parametrize("ready", [True, False])
    def test_blocks_of_a_cancelled_fetch_stay_until_the_transfer_ends(self, ready: bool) -> None:
        e = engine()
        s = e.add(prompt(10), LONG, remote=True)
        e.begin_step()
        e.cancel(s.id)
        assert e.scheduler.stats().blocks_in_use == 3 and e.scheduler.stats().waiting_remote == 0
        assert e.end_fetch(s.id, ready) == []
        assert e.scheduler.stats().blocks_in_use == 0 and e.scheduler.stats().remote_recomputes == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"block_size": 8},
            {"block_ids": (1, 2)},
            {"token_ids": (1, 2)},
            {"first": SampledToken(99)},
        ],
    )
    def test_a_ticket_that_does_not_fit_is_refused(self, change: dict[str, Any]) -> None:
        e = engine()
        ticket = ticket_for(prompt(10), 4)
        tokens = [*prompt(10), ticket.first.token]
        s = Sequence("s", tokens, 10, LONG, 0.0, b"", ticket=replace(ticket, **change))
        with pytest.raises(RequestError) as caught:
            e.scheduler.add(s)
        assert (caught.value.status, caught.value.code) == (400, "ticket_mismatch")


class TestCancel:
    def test_blocks_stay_while_the_step_executes(self) -> None:
        e = engine()
        s, other = e.add(prompt(5), LONG), e.add(prompt(5, 1), LONG)
        e.begin_step()
        e.cancel(s.id)
        assert len(s.blocks) == 2 and e.scheduler.stats().running == 1
        assert [o.sequence for o in e.end_step()] == [other]
        assert s.blocks == [] and e.scheduler.stats().blocks_in_use == 2

    def test_between_steps_blocks_are_free_at_once(self) -> None:
        e = engine()
        s = e.add(prompt(5), LONG)
        e.step()
        e.cancel(s.id)
        assert e.scheduler.stats().blocks_in_use == 0 and s.finish_reason == "abort"

    def test_who_waits_or_is_unknown(self) -> None:
        e = engine(max_num_seqs=1)
        e.add(prompt(5), LONG)
        waiting, remote = e.add(prompt(5), LONG), e.add(prompt(5), LONG, remote=True)
        e.step()
        e.cancel(waiting.id)
        e.cancel(remote.id)
        assert e.scheduler.cancel(waiting.id) is None and e.scheduler.cancel("nobody") is None
        assert e.scheduler.stats().waiting == e.scheduler.stats().waiting_remote == 0


def told(tokens: list[int], sequence: Sequence, k: int) -> list[int]:
    return tokens


class TestLeap:
    def test_uneventful_steps_end_before_a_finish(self) -> None:
        e = engine(num_blocks=64)
        e.add(prompt(5), SamplingParams(20, ignore_eos=True))
        e.add(prompt(5, 1), LONG)
        e.step()
        assert e.scheduler.uneventful_steps() == 18
        assert e.leap(18) == 18
        assert e.scheduler.uneventful_steps() == 0
        assert [o.finish_reason for o in e.step()] == ["length", None]
        e.drain()
        e.check_answers()

    def test_uneventful_steps_end_before_blocks_run_out(self) -> None:
        e = engine(num_blocks=10)
        first, second = e.add(prompt(10), LONG), e.add(prompt(10, 1), LONG)
        e.step()
        e.step()
        steps = e.scheduler.uneventful_steps()
        assert e.leap(steps) == steps == 9
        assert (first.computed, second.computed) == (20, 19)
        e.step()
        assert second.state is State.PREEMPTED

    def test_there_are_none_before_a_prompt_an_admission_or_a_hold(self) -> None:
        e = engine()
        assert e.scheduler.uneventful_steps() == 0
        e.add(prompt(20), LONG)
        e.step()
        assert e.scheduler.uneventful_steps() == 0, "a prompt is under way"
        e.step()
        assert e.scheduler.uneventful_steps() > 0
        e.begin_step()
        assert e.scheduler.uneventful_steps() == 0, "a step is executing"
        e.end_step()
        e.add(prompt(5, 3), LONG)
        assert e.scheduler.uneventful_steps() == 0, "somebody can be admitted"
        e.step()
        assert e.scheduler.uneventful_steps() > 0

    def test_a_queue_that_is_stuck_is_no_event(self) -> None:
        e = engine(num_blocks=8)
        e.add(prompt(12), LONG)
        e.add(prompt(30, 1), LONG)
        e.step()
        e.step()
        assert e.scheduler.stats().waiting == 1 and e.leap(5) == 5

    def test_more_than_is_uneventful_or_a_stop_token_is_refused(self) -> None:
        e = engine(eos_token_ids=frozenset({EOS}))
        s = e.add(FIXED, SamplingParams(50))
        e.step()
        with pytest.raises(ValueError, match="49 steps asked for, 48"):
            e.scheduler.advance(49)
        assert len(s.tokens) == 7, "a refused advance changes nothing"
        for tokens, why in (([1, EOS], "would stop within 2"), ([1], "1 tokens given for 2 steps")):
            scheduler = Scheduler(e.config, tokens=partial(told, tokens))
            sequence = Sequence("s", [*FIXED], len(FIXED), SamplingParams(50), 0.0, b"")
            scheduler.add(sequence)
            scheduler.step_done(scheduler.schedule(0.0).batch, [SampledToken(1)], 0.0)
            with pytest.raises(ValueError, match=why):
                scheduler.advance(2)


def test_the_cache_can_be_reset() -> None:
    e = engine()
    e.add(prompt(12), SamplingParams(1))
    e.drain()
    assert e.scheduler.stats().blocks_cached == 3
    running = e.add(prompt(12, 1), LONG)
    e.step()
    assert not e.scheduler.reset_cache(), "a running sequence's prefix stays"
    assert e.scheduler.stats().blocks_cached == 0
    e.cancel(running.id)
    assert e.scheduler.reset_cache()
    again = e.add(prompt(12), LONG)
    e.step()
    assert again.cached_tokens == 0


def test_uncompleted_tokens_are_those_without_kv() -> None:
    e = engine()
    e.add(prompt(20), LONG)
    e.add(prompt(7, 1), LONG)
    assert e.scheduler.stats().uncompleted_tokens == 27
    e.step()
    assert e.scheduler.stats().uncompleted_tokens == 11


def test_one_step_at_a_time() -> None:
    e = engine()
    e.add(prompt(5), LONG)
    batch = e.begin_step()
    with pytest.raises(RuntimeError, match="still executing"):
        e.scheduler.schedule(0.0)
    with pytest.raises(RuntimeError, match="not the one"):
        e.scheduler.step_done(Batch(batch.chunks), [SampledToken(1)], 0.0)
    with pytest.raises(ValueError, match="no token for 's0'"):
        e.scheduler.step_done(batch, [None], 0.0)


def test_a_scheduler_imports_no_clock_thread_or_tensor() -> None:
    names = vars(__import__(Scheduler.__module__, fromlist=["x"])).keys()
    assert not names & {"time", "threading", "torch", "numpy", "socket"}
