from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import yaml

from tercet.core.stage import Mode
from tercet.core.topology import EngineSpec
from tercet.latency.registry import oracle_for
from tercet.latency.stack import stack_named
from tercet.launch.topology_file import parse_topology, topology_to_dict
from tercet.plan.architecture import Architecture, architectures
from tercet.plan.bound import upper_bound
from tercet.plan.question import GOOD_SHARE
from tercet.plan.search import Plan, promising, search
from tercet.plan.sensitivity import changes_of, sensitivity
from tercet.plan.topology import topology_of
from tercet.plan.trial import Trial, run_trials
from tercet.results.slo import Slo
from tests.unit.plan.questions import Silent, question


@pytest.fixture(scope="module")
def plan() -> Plan:
    return search(question("W2", 6.0, gpus=2), Silent())


def test_a_plan_is_the_same_each_time_and_all_work_is_shown() -> None:
    silent = Silent()
    first, again = (search(question("W2", 2.0, gpus=1), silent) for _ in range(2))
    assert again.ranking == first.ranking and again.curves == first.curves
    assert silent.steps and all(done == total > 0 for done, total in silent.steps.values())


def test_the_asked_load_and_rising_ones_are_simulated(plan: Plan) -> None:
    assert plan.load == 6.0 and plan.load in plan.loads
    assert list(plan.loads) == sorted(set(plan.loads)) and plan.loads[-1] > 6.0
    for curve in plan.curves.values():
        assert [each.trial.load for each in curve] == list(plan.loads[: len(curve)])
    assert {standing.architecture for standing in plan.ranking.standings} == set(plan.curves)


@pytest.mark.parametrize(("gpu", "slo"), [("a100", Slo(500.0, 20.0)), ("h100", Slo(tpot_ms=12.0))])
def test_of_each_mode_one_without_and_one_with_a_workers_is_simulated(gpu: str, slo: Slo) -> None:
    devices = {tp: oracle_for("llama-3.1-8b", gpu, tp=tp) for tp in (1, 2, 4, 8)}
    asked = replace(question("W1", gpus=8, turns=3, slo=slo), devices=devices)
    every = architectures(asked.gpus, devices, turns=True, pictures=False)
    kept = promising(every, {each: upper_bound(asked, each) for each in every})
    assert {(each.mode, each.hybrid) for each in kept} == {(each.mode, each.hybrid) for each in every}


def test_more_load_means_no_more_good_ones(plan: Plan) -> None:
    for curve in plan.curves.values():
        shares = [each.good for each in curve]
        assert shares[0] == 1.0
        assert all(later <= sooner + 0.05 for sooner, later in pairwise(shares))


def test_later_turns_straight_to_d_beat_handing_every_turn_over() -> None:
    """PPD's point, from the reference: no handoff in later turns, so their first token comes sooner."""
    stack = stack_named("vllm-p2pnccl")
    asked = question("W1", 1.0, gpus=2, turns=3, modes=(Mode.PD, Mode.PPD), slo=Slo(ttft_ms=70.0))
    found = search(replace(asked, stack=stack), Silent())
    best, worst = found.ranking.standings[0], found.ranking.standings[-1]
    assert best.architecture.mode is Mode.PPD and best.good > 0.6  # of three turns two
    assert worst.architecture.mode is Mode.PD and worst.good < 0.1


def test_limits_that_nothing_keeps() -> None:
    found = search(question("W2", 2.0, gpus=1, slo=Slo(ttft_ms=20.0)), Silent())
    assert not found.met and found.ranking.best.good < 0.9


def test_without_a_load_the_most_that_is_borne_is_asked() -> None:
    found = search(question("W2", 0.0, gpus=1), Silent())
    best = max(standing.bears for standing in found.ranking.standings)
    assert 0 < found.load <= best
    assert found.load in found.loads


def test_what_is_borne_is_sought_to_the_end_of_each() -> None:
    """The grid's steps are more than twice as wide: between two of them lies what one bears and another does not."""
    devices = {tp: oracle_for("llama-3.1-8b", "h100", tp=tp) for tp in (1, 2)}
    asked = replace(question("W1", 2.0, slo=Slo(ttft_ms=500.0)), devices=devices)
    found = search(asked, Silent())
    for standing in found.ranking.standings:
        load = 0.85 * upper_bound(asked, standing.architecture)
        (probe,) = run_trials([(asked, Trial(standing.architecture, load))])
        assert probe.good > GOOD_SHARE, "or this says nothing"
        assert standing.bears >= load, standing.architecture.label
        assert found.tops[standing.architecture] >= standing.bears


def test_changes_reach_the_simulation(plan: Plan) -> None:
    rivals = [standing.architecture for standing in plan.ranking.standings]
    names = [change.name for change in changes_of(plan.question, plan.load, rivals)]
    assert len(names) == len(set(names)) >= 7
    slower = next(c for c in changes_of(plan.question, plan.load, rivals) if c.name.startswith("every step 15% slower"))
    assert slower.question.stack.scale == pytest.approx(plan.question.stack.scale * 1.15)


def test_a_slow_link_takes_the_choice_from_whoever_hands_over() -> None:
    asked = question("W4", 3.0, gpus=2, slo=Slo(ttft_ms=900.0, tpot_ms=14.0))
    found = search(asked, Silent())
    assert found.ranking.best.architecture.mode is Mode.PD
    crawling = replace(found, question=replace(asked, link_bytes_s=8e9))
    effects = sensitivity(crawling, Silent())
    slow = next(effect for effect in effects if effect.name.startswith("KV moves at"))
    assert slow.flips and slow.best.mode is not Mode.PD


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_topology_reads_back(plan: Plan, hybrid: bool) -> None:
    best = Architecture(Mode.PD, prefill=1, decode=1, whole=2) if hybrid else plan.ranking.best.architecture
    engine = EngineSpec(engine="vllm")
    topology = topology_of(best, name="p", model="m", engine=engine, caps=plan.question.caps, sees=False)
    assert topology.short_form == best.form and topology.mode is best.mode
    assert topology.router.hybrid is hybrid is plan.question.fleet(best).policy.hybrid
    assert parse_topology(yaml.safe_dump(topology_to_dict(topology)), "t") == topology
