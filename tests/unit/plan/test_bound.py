from __future__ import annotations

from dataclasses import replace

import pytest

from tercet.core.stage import Mode
from tercet.plan.architecture import ALWAYS, Architecture
from tercet.plan.bound import upper_bound
from tercet.plan.means import means_of
from tercet.plan.question import GOOD_SHARE
from tercet.plan.trial import Trial, run_trials
from tercet.results.slo import Slo
from tests.unit.plan.questions import question

PAIR = Architecture(Mode.PD, prefill=1, decode=1)
WHOLE = Architecture(Mode.AGGREGATED, whole=2)
HYBRID = Architecture(Mode.PD, prefill=1, decode=1, whole=1)


def test_means_are_those_of_the_turns() -> None:
    means = means_of(question("W1", turns=3).traffic)
    # Of three turns of 512 + 256 the first has nothing before it, the last 1536 tokens.
    assert (means.new, means.prefix, means.output, means.context) == (512, 768, 256, 768 + 512 + 128)


def test_a_shared_prefix_is_computed_by_nobody() -> None:
    means = means_of(question("prefix", turns=2).traffic)
    # 1280 in and 128 out, of which a first turn has 1024 in common with others, a second all that was said before.
    assert (means.new, means.prefix) == ((256 + 1280) / 2, (1024 + 1408) / 2)


@pytest.mark.parametrize("architecture", [PAIR, WHOLE, HYBRID], ids=lambda each: each.label)
def test_no_simulation_bears_more_and_a_third_is_borne(architecture: Architecture) -> None:
    asked = question("W2")
    bound = upper_bound(asked, architecture)
    low, high = run_trials([(asked, Trial(architecture, bound * share)) for share in (0.3, 1.1)])
    assert low.good > GOOD_SHARE > high.good


@pytest.mark.parametrize("architecture", [PAIR, WHOLE], ids=lambda each: each.label)
def test_short_prompts_share_steps(architecture: Architecture) -> None:
    asked = question("128/8", slo=Slo(ttft_ms=500.0))
    alone_ms = asked.stack.scale * asked.devices[1].oracle.prefill(1, 128, 0)
    load = 1.4 * 1e3 / alone_ms * (architecture.prefill + architecture.whole)
    (found,) = run_trials([(asked, Trial(architecture, load))])
    assert found.good > GOOD_SHARE
    assert upper_bound(asked, architecture) > load


def test_a_limit_that_one_request_misses_leaves_nothing() -> None:
    assert upper_bound(question(slo=Slo(ttft_ms=5.0)), PAIR) == 0.0
    assert upper_bound(question(slo=Slo(tpot_ms=5.0)), PAIR) == 0.0
    assert upper_bound(question(slo=None), PAIR) > 0


@pytest.mark.parametrize("architecture", [PAIR, WHOLE], ids=lambda each: each.label)
def test_the_least_first_token_is_a_scaled_prompt_and_what_a_request_costs(architecture: Architecture) -> None:
    asked = question("W2")
    least = asked.stack.scale * asked.devices[1].oracle.prefill(1, 4096, 0) + asked.stack.per_request_ms
    assert upper_bound(replace(asked, slo=Slo(ttft_ms=least + 0.1)), architecture) > 0
    assert upper_bound(replace(asked, slo=Slo(ttft_ms=least - 0.1)), architecture) == 0


def test_a_hybrid_bears_what_its_parts_do() -> None:
    asked = question("W2")
    parts = upper_bound(asked, PAIR) + upper_bound(asked, WHOLE) / 2
    assert upper_bound(asked, HYBRID) == pytest.approx(parts)


def test_later_turns_that_d_answers_alone_do_not_wait_for_p() -> None:
    asked = question("W2", turns=5)
    always = Architecture(Mode.PPD, prefill=1, decode=3, ppd_threshold=ALWAYS)
    through_p = upper_bound(asked, Architecture(Mode.PD, prefill=1, decode=3))
    bound = upper_bound(asked, always)
    assert upper_bound(asked, replace(always, ppd_threshold=512)) == through_p, "of 4096 new tokens each"
    borne, beyond = run_trials([(asked, Trial(always, load)) for load in (1.2 * through_p, 1.1 * bound)])
    assert borne.good > GOOD_SHARE > beyond.good


def test_the_scarce_stage_bounds_a_chain() -> None:
    long_prompts = question("W4")
    more_p, more_d = (replace(PAIR, prefill=3), replace(PAIR, decode=3))
    base = upper_bound(long_prompts, PAIR)
    assert upper_bound(long_prompts, more_p) > 2 * base
    assert upper_bound(long_prompts, more_d) == pytest.approx(base)
