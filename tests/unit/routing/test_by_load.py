from __future__ import annotations

from random import Random

from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.routing.by_load import FEW, MANY, LoadHeap, LoadScan
from tercet.routing.events import (
    Finished,
    FirstToken,
    ModelsListed,
    PairHealth,
    RankHealth,
    RankRestarted,
    Routed,
    WorkerRemoved,
)
from tercet.routing.fleet import FleetState
from tests.unit.routing.fleets import ids, make_fleet, url

COUNT = 3 * MANY


def loads_of(fleet: FleetState, ranks: tuple[Rank, ...]) -> LoadScan:
    return LoadScan(ranks, {rank.address: fleet.load(rank) for rank in ranks})


def test_a_heap_answers_as_a_look_at_each_does() -> None:
    random, fleet = Random(0), make_fleet("A" * COUNT)
    ranks, under_way = fleet.candidates("A", ""), list[str]()
    for i in range(3000):
        kind = random.random()
        if kind < 0.5 or not under_way:
            name, facts = f"{i}", ids([i] * 10)
            place = fleet.by_load(ranks).least()
            rank = ranks[place[1]] if place and kind < 0.3 else random.choice(ranks)
            fleet.apply(Routed(name, Route(Mode.AGGREGATED, rank, uncached=random.randrange(400)), facts))
            under_way.append(name)
        elif kind < 0.7:
            fleet.apply(FirstToken(random.choice(under_way), 10, 0))
        else:
            fleet.apply(Finished(under_way.pop(random.randrange(len(under_way)))))
        if i % 3 == 0:
            continue  # not asked after every change
        found, scanned = fleet.by_load(ranks), loads_of(fleet, ranks)
        assert isinstance(found, LoadHeap)
        some = {rank.address for rank in random.sample(ranks, random.choice((0, 1, 3, FEW, FEW + 1, COUNT)))}
        addresses = [*some, "http://nobody:1"]
        assert found.least(some) == scanned.least(some)
        assert found.least() == scanned.least()
        assert found.places(addresses) == scanned.places(addresses)
        assert found.mean_requests() == scanned.mean_requests()


def test_ranks_that_come_and_go_are_seen() -> None:
    fleet = make_fleet("A" * COUNT)
    ranks = fleet.candidates("A", "")
    for i, rank in enumerate(ranks[1:]):
        fleet.apply(Routed(f"{i}", Route(Mode.AGGREGATED, rank, uncached=10), ids([i] * 10)))
    assert fleet.by_load(ranks).least() == ((0, 0), 0)
    fleet.apply(WorkerRemoved(url("A", 0)))
    ranks = fleet.candidates("A", "")
    assert len(ranks) == COUNT - 1
    fleet.apply(Finished("7"))
    place = fleet.by_load(ranks).least()
    assert place == loads_of(fleet, ranks).least() and place is not None and place[1] == 7


def test_models_of_the_same_ranks_share_a_heap() -> None:
    fleet = make_fleet("A" * COUNT + "D" * COUNT)
    for i in range(COUNT):
        fleet.apply(ModelsListed(url("A", i), ("m", "n", "o") if i else ("m", "n")))
    heaps = [fleet.by_load(fleet.candidates("A", model)) for model in ("m", "n", "o", "")]
    assert heaps[0] is heaps[1] is heaps[3] is not heaps[2]
    assert isinstance(heaps[2], LoadHeap) and len(heaps[2].ranks) == COUNT - 1
    assert fleet.candidates("D", "m")[0].letter == "D"


def test_few_ranks_are_looked_at() -> None:
    fleet = make_fleet("A" * (MANY - 1))
    assert isinstance(fleet.by_load(fleet.candidates("A", "")), LoadScan)


def test_pairs_are_found_anew_when_one_changes() -> None:
    fleet = make_fleet("PPD")
    prefills, decode = fleet.candidates("P", ""), fleet.candidates("D", "")[0].address
    assert fleet.reachable(prefills, decode) is prefills
    fleet.apply(PairHealth(prefills[0].address, decode, False))
    assert list(fleet.reachable(prefills, decode)) == [prefills[1]]
    assert list(fleet.reachable(prefills[:1], decode)) == []
    fleet.apply(PairHealth(prefills[0].address, decode, True))
    assert list(fleet.reachable(prefills, decode)) == list(prefills)
    fleet.apply(RankRestarted(prefills[1].address))
    fleet.apply(RankHealth(prefills[1].address, True))
    prefills = fleet.candidates("P", "")
    assert list(fleet.reachable(prefills, decode)) == [prefills[0]]
    assert not fleet.paired(prefills[1].address, decode)
