"""One prefix that everybody asks for does not draw everybody to one rank."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest

from tercet.core.stage import Mode
from tercet.routing.affinity import affinity
from tercet.routing.events import ConversationRecorded, Finished, FirstToken, Prefilled, Routed
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.modes import route
from tercet.routing.policy import Policy
from tests.unit.routing.fleets import chat, ids, make_fleet, routed

HOT = list(range(4096))
LETTERS = {Mode.REPLICATED: "A" * 8, Mode.PD: "PPPP" + "D" * 8, Mode.PPD: "PPPP" + "D" * 8}


def imbalance(mode: Mode, ask: list[RequestFacts], concurrent: int, seed: int = 1) -> tuple[float, float, FleetState]:
    """Keep `concurrent` requests under way, each ending at a random time; return the mean over time of the busiest
    decoding rank's requests to the average, the largest, and the fleet."""
    fleet, random = make_fleet(LETTERS[mode]), Random(seed)
    under_way: deque[tuple[str, RequestFacts, str]] = deque()
    ratios = []
    letter = "A" if mode is Mode.REPLICATED else "D"
    for i, facts in enumerate(ask):
        way = routed(route(mode, facts, fleet, Policy()))
        fleet.apply(Routed(str(i), way, facts))
        if way.prefill is not None:
            fleet.apply(Prefilled(str(i), facts.prompt_tokens))
        fleet.apply(FirstToken(str(i), facts.prompt_tokens, None))
        under_way.append((str(i), facts, way.decode.address))
        if len(under_way) > concurrent:
            under_way.rotate(random.randrange(len(under_way)))
            name, ended, address = under_way.popleft()
            fleet.apply(Finished(name))
            fleet.apply(ConversationRecorded(ended, address, ended.prompt_tokens, 64))
            loads = [fleet.load(rank).requests for rank in fleet.candidates(letter, "")]
            ratios.append(max(loads) / (sum(loads) / len(loads)))
    return sum(ratios) / len(ratios), max(ratios), fleet


@pytest.mark.parametrize("mode", LETTERS)
@pytest.mark.parametrize("concurrent", [128, 400])
def test_a_hot_prefix_keeps_the_busiest_below_one_and_a_half_times_the_mean(mode: Mode, concurrent: int) -> None:
    ask = [ids([*HOT, i, i + 1, i + 2]) for i in range(2000)]
    mean, largest, _ = imbalance(mode, ask, concurrent)
    assert mean < 1.5 and largest < 1.5, (mean, largest)


@pytest.mark.parametrize("mode", [Mode.REPLICATED, Mode.PPD])
def test_branches_of_one_conversation_spread_too(mode: Mode) -> None:
    talk = ["tell me " * 400, "well " * 400]
    ask = [chat(talk[0]), *(chat(*talk, f"and {i}?") for i in range(1500))]
    mean, largest, _ = imbalance(mode, ask, 160)
    assert mean < 1.5 and largest < 1.6, (mean, largest)


def test_without_a_crowd_a_prefix_keeps_its_rank() -> None:
    for mode in (Mode.REPLICATED, Mode.PPD):
        _, _, fleet = imbalance(mode, [ids([*HOT, i]) for i in range(200)], 2)
        letter = "A" if mode is Mode.REPLICATED else "D"
        assert max(fleet.load(rank).routed for rank in fleet.candidates(letter, "")) >= 198


def test_what_a_prefix_weighs() -> None:
    assert [affinity(requests, 10.0) for requests in (0, 10, 12, 14, 40)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert [affinity(requests, 0.5) for requests in (0, 1, 4, 5)] == [1.0, 0.875, 0.125, 0.0]
