"""Workloads and the conversations made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.conversation import TokenRange
from tercet.traffic.workload import TrafficSpec, Workload, conversations, workload_from_name

SPEC = TrafficSpec(Workload("t", 16, 8), qps=4.0, num_requests=9, turns=2, arrivals=Arrivals.CONSTANT, seed=5)


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("W1", (512, 256)), ("w2", (4096, 128)), ("W3", (256, 1024)), ("W4", (8192, 64)), ("2048/32", (2048, 32))],
)
def test_workloads_by_name(name: str, lengths: tuple[int, int]) -> None:
    workload = workload_from_name(name)
    assert (workload.input_tokens, workload.output_tokens) == lengths


@pytest.mark.parametrize("name", ["W5", "", "0/4", "4/", "4/4/4"])
def test_unknown_workloads_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"W1 \(512/256\)"):
        workload_from_name(name)


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
    assert first[0].new_tokens(0) == again[0].new_tokens(0) != other[0].new_tokens(0)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"turns": 0}, "--turns"),
        ({"num_requests": 0}, "--num-requests"),
        ({"qps": 0.0}, "--qps"),
        ({"think_s": -1.0}, "--think"),
    ],
)
def test_impossible_traffic_is_refused_by_the_flag_that_asked_for_it(change: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        replace(SPEC, **change)  # type: ignore[arg-type]
