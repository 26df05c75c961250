"""Workloads and the conversations made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.conversation import TokenRange
from tercet.traffic.spec import TrafficSpec, conversations
from tercet.traffic.workload import Workload, workload_from_name

SPEC = TrafficSpec(Workload("t", 16, 8), qps=4.0, num_requests=9, turns=2, arrivals=Arrivals.CONSTANT, seed=5)


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("W1", (512, 256)),
        ("w2", (4096, 128)),
        ("W3", (256, 1024)),
        ("W4", (8192, 64)),
        ("2048/32", (2048, 32)),
        ("images", (64, 500)),
    ],
)
def test_workloads_by_name(name: str, lengths: tuple[int, int]) -> None:
    workload = workload_from_name(name)
    assert (workload.input_tokens, workload.output_tokens) == lengths


@pytest.mark.parametrize("name", ["W5", "", "0/4", "4/", "4/4/4"])
def test_unknown_workloads_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"W1 \(512/256\)"):
        workload_from_name(name)


def test_ranges_of_lengths_are_drawn_evenly_and_scaled() -> None:
    workload = workload_from_name("100-200/8-16").scaled(0.5)
    assert (str(workload.inputs), str(workload.outputs)) == ("50-100", "4-8")
    spec = TrafficSpec(workload, qps=1.0, num_requests=600)
    turns = [talk.turns[0] for talk in conversations(spec, salt="a", tokens=TokenRange())]
    assert {turn.output_tokens for turn in turns} == set(range(4, 9))
    inputs = [turn.new_input_tokens for turn in turns]
    assert 50 <= min(inputs) < 55 and 95 < max(inputs) <= 100 and 73 < sum(inputs) / 600 < 77
    with pytest.raises(UsageError, match="range"):
        workload_from_name("200-100/8")


def test_scaling_shrinks_to_at_least_one_token() -> None:
    scaled = workload_from_name("W1").scaled(0.125)
    assert (scaled.input_tokens, scaled.output_tokens) == (64, 32)
    tiny = workload_from_name("W4").scaled(0.001)
    assert (tiny.input_tokens, tiny.output_tokens) == (8, 1)
    with pytest.raises(UsageError, match="--scale"):
        workload_from_name("W1").scaled(0)


def test_turns_flow_at_the_asked_rate() -> None:
    talks = conversations(SPEC, salt="a", tokens=TokenRange())
    assert len(talks) == SPEC.num_conversations == 5
    assert [talk.arrival_s for talk in talks] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert all(len(talk.turns) == 2 for talk in talks)
    assert SPEC.longest == 2 * 24


def test_the_salt_changes_everything_and_its_absence_nothing() -> None:
    spec = replace(SPEC, arrivals=Arrivals.POISSON)
    first, again, other = (conversations(spec, salt=salt, tokens=TokenRange()) for salt in ("a", "a", "b"))
    assert first == again
    assert {talk.id for talk in first}.isdisjoint(talk.id for talk in other)
    assert [talk.arrival_s for talk in first] != [talk.arrival_s for talk in other]
    bodies = [talks[0].request_body(0, [], model="m") for talks in (first, again, other)]
    assert bodies[0] == bodies[1] != bodies[2]


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"turns": 0}, "--turns"),
        ({"num_requests": 0}, "--num-requests"),
        ({"duration_s": 0.0}, "--duration"),
        ({"concurrency": -1}, "--concurrency"),
        ({"ramp_s": -1.0}, "--ramp"),
        ({"speed": 0.0}, "--trace-speed"),
        ({"burstiness": 0.0}, "--burstiness"),
        ({"burstiness": 0.5}, "--arrivals gamma"),
        ({"speed": 2.0}, "--trace-speed 2 is of a trace"),
        ({"arrivals": Arrivals.TRACE}, "--dataset"),
        ({"qps": 0.0}, "--qps"),
        ({"think_s": -1.0}, "--think"),
    ],
)
def test_impossible_traffic_is_refused_by_the_flag_that_asked_for_it(change: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        replace(SPEC, **change)  # type: ignore[arg-type]
