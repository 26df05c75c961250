from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import UsageError
from tercet.latency.calibration import expected_ms, fit_stack, stack_from
from tercet.latency.least_squares import fit_positive
from tercet.latency.measured import MeasuredOracle, fit_machine
from tercet.latency.oracle import LatencyOracle
from tercet.latency.registry import oracle_for
from tercet.latency.samples import FirstToken, Sample, Stretch
from tercet.latency.stack import StackConstants

TRUE = MeasuredOracle(12.0, 0.8, 2e-4, 0.6, 3e-4, 40.0, 23040, 10_000)


def machine_samples(rng: random.Random) -> list[Sample]:
    samples: list[Sample] = []
    for _ in range(60):
        tokens, prefix, decodes = rng.randint(20, 900), rng.choice((0, 300)), float(rng.randint(0, 4))
        steps = -(-tokens // 512)
        handoff, images = rng.random() < 0.3, rng.choice((0, 0, 2))
        moved = tokens * handoff
        took = 5.0 + 30.0 * handoff + 0.05 * moved + 40.0 * images + (steps - 1) * TRUE.base_ms
        took += TRUE.mixed(tokens, prefix, 0, 0.0) + steps * decodes * (0.6 + 500 * 3e-4)
        samples.append(
            FirstToken(took, tokens, prefix, steps, decodes, 500.0, handoff=handoff, moved=moved, images=images)
        )
        batch, context = float(rng.randint(1, 16)), float(rng.randint(100, 2000))
        came = rng.choice((0, 0, 1, 2))
        moved = came * rng.randint(20, 900)
        stalled = 8.0 * came + 0.05 * moved
        samples.append(
            Stretch(50 * TRUE.decode(int(batch), context) + stalled, 50, batch, context, handoffs=came, moved=moved)
        )
    return samples


def test_a_machine_is_found_again_from_its_timings() -> None:
    fit = fit_machine(machine_samples(random.Random(3)))
    for name, value in (
        ("base", 12.0), ("token", 0.8), ("pair", 2e-4), ("sequence", 0.6), ("context", 3e-4), ("hop", 30.0),
        ("per_request", 5.0), ("image", 40.0), ("hop_stall", 8.0), ("hop_token", 0.05),
    ):  # fmt: skip
        assert fit.values[name] == pytest.approx(value, rel=0.02), name
    assert max(map(abs, fit.errors)) < 0.01


def test_a_few_wild_timings_do_not_move_the_fit() -> None:
    samples = machine_samples(random.Random(4))
    wild = [Stretch(each.observed_ms * 5, each.steps, each.batch, each.context)
            for each in samples[:10] if isinstance(each, Stretch)]  # fmt: skip
    fit = fit_machine([*samples, *wild])
    assert fit.values["base"] == pytest.approx(12.0, rel=0.05)
    assert fit.values["token"] == pytest.approx(0.8, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_no_value_is_negative_and_none_better_lies_beside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(12, 4)) + 0.3
    observed = np.abs(rows @ rng.normal(size=4)) + 0.1
    fit = fit_positive("abcd", rows.tolist(), observed.tolist())
    assert all(value >= 0 for value in fit.values.values())
    exact = np.abs(rows @ np.array([1.0, 0.0, 2.0, 0.5])) + 1e-6
    if (rows @ np.array([1.0, 0.0, 2.0, 0.5]) > 0.2).all():
        found = fit_positive("abcd", rows.tolist(), exact.tolist())
        assert list(found.values.values()) == pytest.approx([1.0, 0.0, 2.0, 0.5], abs=1e-3)


def test_too_few_timings_are_refused() -> None:
    with pytest.raises(UsageError, match="2 timings can't tell 3 constants apart"):
        fit_positive("abc", [[1, 2, 3], [4, 5, 6]], [1.0, 2.0])
    assert fit_positive("ab", [[1, 0], [2, 0]], [3.0, 6.0]).values == {"a": pytest.approx(3.0), "b": 0.0}


def test_the_constants_of_a_stack_are_found_again() -> None:
    oracle = oracle_for("llama-3.1-8b", "h100").oracle
    samples: list[Sample] = []
    for tokens in (200, 400, 2700, 5400):
        alone = expected_ms(oracle, FirstToken(1.0, tokens))
        samples.append(FirstToken(18.8 + 1.288 * alone, tokens))
        samples.append(FirstToken(18.8 + 1.288 * alone + 45.0, tokens, handoff=True))
        half_a_step = 1.288 * oracle.decode(1, tokens) / 2
        busy = 18.8 + 1.288 * alone + 45.0 + 25.0 + half_a_step
        samples.append(FirstToken(busy, tokens, handoff=True, handoff_busy=1.0))
        samples.append(Stretch(100 * 1.288 * oracle.decode(4, 1000.0), 100, 4.0, 1000.0))
    fit = fit_stack(oracle, samples)
    stack = stack_from(fit, StackConstants(image_host_ms=7.0), "a test")
    assert stack.scale == pytest.approx(1.288, rel=0.01)
    assert stack.per_request_ms == pytest.approx(18.8, rel=0.02)
    assert stack.hop_ms == pytest.approx(45.0, rel=0.02)
    assert stack.hop_busy_ms == pytest.approx(25.0, rel=0.05)
    assert stack.image_host_ms == 7.0


def test_a_prompt_in_two_steps_and_prompts_between_decodes_cost_more() -> None:
    oracle: LatencyOracle = oracle_for("llama-3.1-8b", "h100").oracle
    one, two = FirstToken(1.0, 4000), FirstToken(1.0, 4000, steps=2)
    assert expected_ms(oracle, one) < expected_ms(oracle, two) < 1.3 * expected_ms(oracle, one)
    plain = Stretch(1.0, 10, 2.5, 1000.0)
    assert 10 * oracle.decode(2, 1000) < expected_ms(oracle, plain) < 10 * oracle.decode(4, 1000)
    disturbed = Stretch(1.0, 10, 2.5, 1000.0, 2000.0, 2000.0 * 1000)
    assert expected_ms(oracle, disturbed) > expected_ms(oracle, plain) + 30
    after_500 = Stretch(1.0, 10, 2.0, 1000.0, 2000.0, 2000.0 * (500 + 1000))
    beside = TRUE.prefill(1, 2000, 500) - TRUE.prefill(1, 1, 0)
    assert expected_ms(TRUE, after_500) == pytest.approx(10 * TRUE.decode(2, 1000) + beside)


def test_the_measured_oracle_adds_up() -> None:
    assert TRUE.prefill(1, 100, 50) == pytest.approx(12 + 80 + 100 * 100 * 2e-4)
    assert TRUE.mixed(100, 50, 0, 0.0) == TRUE.prefill(1, 100, 50)
    assert TRUE.mixed(100, 0, 3, 200.0) == pytest.approx(TRUE.prefill(1, 100, 0) + TRUE.decode(3, 200.0) - 12)
    assert TRUE.decode_run(3, 200, 40) == pytest.approx(sum(TRUE.decode(3, 200 + step) for step in range(40)))
    assert TRUE.slowed(2.0).mixed(10, 0, 3, 20.0) == pytest.approx(2 * TRUE.mixed(10, 0, 3, 20.0))
    assert TRUE.slowed(2.0).encode(2) == 2 * TRUE.encode(2)
    assert (TRUE.encode(2), TRUE.kv_bytes(2), TRUE.kv_capacity()) == (80.0, 46080, 10_000)


def test_what_one_load_can_not_tell_is_not_made_up() -> None:
    samples: list[Sample] = []
    for i in range(20):
        samples.append(FirstToken(20.0 + 100 * 0.8, 100))
        samples.append(Stretch((30 + i) * 21.0, 30 + i, 1.0, 150.0 + i))
    values = fit_machine(samples).values
    assert values["sequence"] < 0.05 * values["base"]
    assert values["pair"] == 0
    assert values["context"] * 150 < 0.05 * values["base"]
    assert values["base"] == pytest.approx(21.0, rel=0.05)
