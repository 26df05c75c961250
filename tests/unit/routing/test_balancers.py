from __future__ import annotations

from collections import Counter

import pytest

from tercet.core.errors import UsageError
from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.routing.balancers import BALANCERS, balancer_named
from tercet.routing.events import CacheStored, Routed, WorkerRemoved
from tercet.routing.fleet import FleetState
from tests.unit.routing.fleets import chat, ids, make_fleet, url


def ranks(fleet: FleetState) -> list[Rank]:
    return list(fleet.candidates("A", ""))


def pick(name: str, fleet: FleetState, count: int, seed: int = 0) -> list[str]:
    """Route `count` requests that never end."""
    labels = []
    for i in range(count):
        facts = ids([i] * 10)
        rank = BALANCERS[name](ranks(fleet), facts, fleet, None, seed)
        fleet.apply(Routed(f"{i}", Route(Mode.AGGREGATED, rank, uncached=10), facts))
        labels.append(rank.label)
    return labels


def test_round_robin_takes_turns() -> None:
    assert pick("round_robin", make_fleet("AAA"), 6) == ["A0", "A1", "A2"] * 2


def test_random_is_spread_and_repeatable() -> None:
    first = pick("random", make_fleet("AAA"), 300, seed=1)
    assert first == pick("random", make_fleet("AAA"), 300, seed=1)
    assert first != pick("random", make_fleet("AAA"), 300, seed=2)
    assert min(Counter(first).values()) > 60


def test_least_loaded_avoids_long_prompts() -> None:
    fleet = make_fleet("AA")
    fleet.apply(Routed("long", Route(Mode.AGGREGATED, ranks(fleet)[0], uncached=4000), ids([1] * 4000)))
    assert pick("least_loaded", fleet, 5) == ["A1"] * 5


def test_power_of_two_never_takes_the_worst_and_uses_all() -> None:
    fleet = make_fleet("AAAA")
    fleet.apply(Routed("long", Route(Mode.AGGREGATED, ranks(fleet)[2], uncached=10**9), ids([1])))
    picked = Counter(pick("power_of_two", fleet, 200))
    assert picked["A2"] == 0 and min(picked[f"A{i}"] for i in (0, 1, 3)) > 30
    assert pick("power_of_two", make_fleet("A"), 2) == ["A0", "A0"]


def test_consistent_hash_keeps_a_conversation_and_moves_few() -> None:
    fleet = make_fleet("AAAA")
    hashing = BALANCERS["consistent_hash"]
    before = {i: hashing(ranks(fleet), chat("x", session=str(i)), fleet, None, 0).label for i in range(200)}
    assert min(Counter(before.values()).values()) > 25
    fleet.apply(WorkerRemoved(url("A", 3)))
    after = {i: hashing(ranks(fleet), chat("x", session=str(i)), fleet, None, 0).label for i in range(200)}
    assert all(after[i] == before[i] for i in before if before[i] != "A3")
    # Without a session the beginning of the conversation counts.
    turns = [chat("hello"), chat("hello", "hi", "more"), chat("hello", "hi", "more", "ok", "end")]
    assert len({hashing(ranks(fleet), facts, fleet, None, 0).label for facts in turns}) == 1


def test_prefix_aware_weighs_the_prefix_against_the_load() -> None:
    fleet = make_fleet("AA")
    facts = ids(list(range(640)))
    fleet.apply(CacheStored(facts, url("A", 1), 640))
    prefix_aware = BALANCERS["prefix_aware"]
    assert prefix_aware(ranks(fleet), facts, fleet, None, 0).label == "A1"
    assert prefix_aware(ranks(fleet), ids([9] * 640), fleet, None, 0).label == "A0"
    a1 = ranks(fleet)[1]
    fleet.apply(Routed("busy", Route(Mode.AGGREGATED, a1, uncached=500), ids([1] * 500)))
    assert prefix_aware(ranks(fleet), facts, fleet, None, 0).label == "A1"
    fleet.apply(Routed("busier", Route(Mode.AGGREGATED, a1, uncached=500), ids([1] * 500)))
    assert prefix_aware(ranks(fleet), facts, fleet, None, 0).label == "A0"


def test_unknown_balancer_lists_the_known() -> None:
    assert balancer_named("random") is BALANCERS["random"]
    with pytest.raises(UsageError, match="power_of_two"):
        balancer_named("best")
