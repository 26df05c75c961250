from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.route import Route
from tercet.core.stage import Mode
from tercet.routing.events import (
    CacheStored,
    ConversationRecorded,
    ConversationsCleared,
    ModelsListed,
    PairHealth,
    RankHealth,
    RankRestarted,
    Routed,
)
from tercet.routing.facts import RequestFacts
from tercet.routing.modes import route
from tercet.routing.policy import Policy
from tercet.routing.refusal import Refusal
from tests.unit.routing.fleets import chat, ids, make_fleet, routed, serve, text, url

POLICY = Policy()


@pytest.mark.parametrize(
    ("letters", "mode", "expected"),
    [
        ("A", Mode.AGGREGATED, "A0"),
        ("AA", Mode.REPLICATED, "A0"),
        ("PD", Mode.PD, "P0>D0"),
        ("PD", Mode.PPD, "P0>D0"),
        ("PPDD", Mode.PD, "P0>D0"),
        ("PDA", Mode.AGGREGATED, "A0"),
    ],
)
def test_the_first_request(letters: str, mode: Mode, expected: str) -> None:
    assert str(routed(route(mode, chat("hello"), make_fleet(letters), POLICY))) == expected


@pytest.mark.parametrize(
    ("letters", "mode", "word"),
    [("PD", Mode.AGGREGATED, "prefill and decode"), ("A", Mode.PD, "decode"), ("D", Mode.PPD, "prefill worker")],
)
def test_no_worker_for_the_mode(letters: str, mode: Mode, word: str) -> None:
    answer = route(mode, chat("hello"), make_fleet(letters), POLICY)
    assert isinstance(answer, Refusal) and answer.status == 503 and word in answer.reason


def test_unknown_model_is_404_and_names_the_known() -> None:
    answer = route(Mode.AGGREGATED, chat("hello", model="nope"), make_fleet("A"), POLICY)
    assert isinstance(answer, Refusal) and answer.status == 404 and "'m'" in answer.reason
    # Before any worker said what it serves, nobody knows: try again.
    answer = route(Mode.AGGREGATED, chat("hello"), make_fleet("A", ready=False), POLICY)
    assert isinstance(answer, Refusal) and answer.status == 503


def test_a_known_model_of_a_worker_that_is_down_is_503() -> None:
    fleet = make_fleet("AA")
    fleet.apply(ModelsListed(url("A", 1), ("other",)))
    fleet.apply(RankHealth(url("A", 1), False))
    answer = route(Mode.AGGREGATED, chat("x", model="other"), fleet, POLICY)
    assert isinstance(answer, Refusal) and answer.status == 503


def talk(mode: Mode, letters: str, policy: Policy = POLICY, session: str | None = None, turns: int = 4) -> list[str]:
    """Routes of one conversation, each turn 200 tokens in and 50 out, while others keep the balancers moving."""
    fleet = make_fleet(letters)
    texts: list[str] = []
    routes = []
    for turn in range(turns):
        for i in range(turn + 1):
            other = chat(f"other {turn} {i}")
            serve(fleet, other, routed(route(mode, other, fleet, policy)), f"o{turn}.{i}", 5)
        texts.append(f"{turn}" * 800)
        facts = chat(*texts, session=session)
        found = routed(route(mode, facts, fleet, policy))
        serve(fleet, facts, found, f"t{turn}", 50)
        routes.append(str(found))
        texts.append("answer" * 30)
    return routes


@pytest.mark.parametrize("session", [None, "s1"])
@pytest.mark.parametrize("balancer", [None, "round_robin", "least_loaded", "random"])
def test_a_conversation_sticks_to_its_replica(session: str | None, balancer: str | None) -> None:
    assert len(set(talk(Mode.REPLICATED, "AAA", Policy(balancer=balancer), session))) == 1


def test_aggregated_has_no_affinity() -> None:
    assert len(set(talk(Mode.AGGREGATED, "AAA", Policy(balancer="round_robin"), "s"))) > 1


@pytest.mark.parametrize("session", [None, "s1"])
def test_ppd_sends_later_turns_straight_to_the_same_decode_worker(session: str | None) -> None:
    routes = talk(Mode.PPD, "PPDD", Policy(balancer="round_robin"), session)
    decode = routes[0].split(">")[1]
    assert routes[0].startswith("P") and routes[1:] == [decode] * 3


HYBRID = Policy(hybrid=True)


@pytest.mark.parametrize("mode", [Mode.PD, Mode.PPD])
def test_a_hybrid_fleet_shares_requests_between_a_and_d(mode: Mode) -> None:
    fleet = make_fleet("PDDA")
    found = []
    for i in range(9):  # all under way at once
        facts = chat(f"{i}" * 400)
        way = routed(route(mode, facts, fleet, HYBRID))
        fleet.apply(Routed(f"r{i}", way, facts))
        found.append(str(way))
    # What P has to do counts as A's own work does: nothing is computed yet.
    assert sorted(found) == ["A0"] * 5 + ["P0>D0"] * 2 + ["P0>D1"] * 2
    assert "A" not in "".join(talk(mode, "PDDA")), "unless told so, A gets none"


@pytest.mark.parametrize(
    ("mode", "letter", "later"),
    [(Mode.PD, "A", "A0"), (Mode.PPD, "A", "A0"), (Mode.PD, "D", "P"), (Mode.PPD, "D", "D0")],
)
def test_a_conversation_stays_where_it_began_in_a_hybrid_fleet(mode: Mode, letter: str, later: str) -> None:
    fleet, (first, second) = make_fleet("PDA"), later_turn()
    fleet.apply(ConversationRecorded(first, url(letter, 0), 200, 25))
    assert str(route(mode, second, fleet, HYBRID)).startswith(later)


@pytest.mark.parametrize("mode", [Mode.PD, Mode.PPD])
def test_without_p_a_hybrid_fleet_still_answers(mode: Mode) -> None:
    assert str(route(mode, chat("x"), make_fleet("DA"), HYBRID)) == "A0"
    fleet = make_fleet("PDA")
    fleet.apply(PairHealth(url("P", 0), url("D", 0), False))
    assert [str(route(mode, chat(f"x{i}"), fleet, HYBRID)) for i in range(3)] == ["A0"] * 3
    assert isinstance(route(mode, chat("x"), fleet, POLICY), Refusal)
    assert str(route(mode, chat("x"), make_fleet("DA"), Policy(hybrid=True, decode_fallback=True))) == "A0"


@pytest.mark.parametrize("mode", [Mode.PD, Mode.PPD])
def test_what_no_ticket_carries_is_shared_between_a_and_d_in_a_hybrid_fleet(mode: Mode) -> None:
    fleet = make_fleet("PDAA")
    found = []
    for i in range(9):
        facts = text(f"{i}" * 400, echo=True)
        way = routed(route(mode, facts, fleet, HYBRID))
        fleet.apply(Routed(f"r{i}", way, facts))
        found.append(str(way))
    assert sorted(found) == ["A0"] * 3 + ["A1"] * 3 + ["D0"] * 3


@pytest.mark.parametrize("mode", [Mode.PD, Mode.PPD])
def test_several_answers_that_p_and_d_cannot_give_are_as_in_a_hybrid_fleet(mode: Mode) -> None:
    fleet, policy = make_fleet("PDA"), Policy(hybrid=True, one_choice=True, decode_alone=False)
    asked = [text(f"{i}" * 400, n=2) for i in range(5)]
    fleet.apply(ConversationRecorded(asked[0], url("D", 0), 100, 25))
    for i, facts in enumerate(asked):
        way = routed(route(mode, facts, fleet, policy))
        fleet.apply(Routed(f"r{i}", way, facts))
        assert str(way) == "A0"
    assert str(route(mode, chat("x" * 400), fleet, policy)) == "P0>D0"
    assert str(route(mode, asked[1], fleet, policy, {url("A", 0)})) == "P0>D0", "where it is refused in words"


def test_pd_always_goes_through_p() -> None:
    assert all(found.startswith("P") for found in talk(Mode.PD, "PPDD", session="s"))


@pytest.mark.parametrize(("new", "expected"), [(511, "D0"), (512, "P0>D0"), (5000, "P0>D0")])
def test_the_threshold_is_on_uncached_tokens(new: int, expected: str) -> None:
    fleet = make_fleet("PD")
    history = list(range(1000))
    fleet.apply(ConversationRecorded(ids(history), url("D", 0), 1000, 24))
    found = routed(route(Mode.PPD, ids(history + [7] * (24 + new)), fleet, POLICY))
    assert str(found) == expected
    assert (found.held, found.uncached) == (1024, new)


def test_the_threshold_can_be_set() -> None:
    fleet = make_fleet("PD")
    fleet.apply(ConversationRecorded(ids([1] * 100), url("D", 0), 100, 0))
    later = ids([1] * 150)
    assert str(route(Mode.PPD, later, fleet, Policy(ppd_threshold=50))) == "P0>D0"
    assert str(route(Mode.PPD, later, fleet, Policy(ppd_threshold=51))) == "D0"
    assert str(route(Mode.PPD, later, fleet, Policy(ppd_threshold=0))) == "P0>D0"


def later_turn() -> tuple[RequestFacts, RequestFacts]:
    return chat("q" * 800), chat("q" * 800, "a" * 100, "again")


def test_ppd_goes_through_p_when_the_prefix_is_gone() -> None:
    first, second = later_turn()
    for forget in (ConversationsCleared(), RankRestarted(url("D", 0))):
        fleet = make_fleet("PD")
        fleet.apply(ConversationRecorded(first, url("D", 0), 200, 25))
        assert str(route(Mode.PPD, second, fleet, POLICY)) == "D0"
        fleet.apply(forget)
        fleet.apply(RankHealth(url("D", 0), True))
        fleet.apply(PairHealth(url("P", 0), url("D", 0), True))
        assert str(route(Mode.PPD, second, fleet, POLICY)) == "P0>D0"


def test_ppd_finds_an_unremembered_conversation_in_a_cache() -> None:
    first, second = later_turn()
    fleet = make_fleet("PDD")
    fleet.apply(CacheStored(first, url("D", 1), 200))
    assert str(route(Mode.PPD, second, fleet, POLICY)) == "D1"
    # But a first turn goes through P, whoever holds its system prompt.
    assert str(route(Mode.PPD, chat("q" * 800 + "!"), fleet, POLICY)).startswith("P0>")


def test_ppd_goes_elsewhere_when_the_holder_is_down() -> None:
    first, second = later_turn()
    fleet = make_fleet("PDD")
    fleet.apply(ConversationRecorded(first, url("D", 0), 200, 25))
    fleet.apply(RankHealth(url("D", 0), False))
    assert str(route(Mode.PPD, second, fleet, POLICY)) == "P0>D1"


def test_a_later_turn_needs_no_prefill_worker() -> None:
    first, second = later_turn()
    fleet = make_fleet("PD")
    fleet.apply(ConversationRecorded(first, url("D", 0), 200, 25))
    fleet.apply(RankHealth(url("P", 0), False))
    assert str(route(Mode.PPD, second, fleet, POLICY)) == "D0"
    assert isinstance(route(Mode.PPD, chat("new"), fleet, POLICY), Refusal)


def test_a_long_later_turn_still_goes_to_its_holder() -> None:
    first = chat("q" * 800)
    fleet = make_fleet("PDD")
    fleet.apply(ConversationRecorded(first, url("D", 1), 200, 25))
    assert str(route(Mode.PPD, chat("q" * 800, "a", "b" * 8000), fleet, POLICY)) == "P0>D1"


def test_fallback_to_decode_is_a_choice() -> None:
    fleet = make_fleet("PD")
    fleet.apply(RankHealth(url("P", 0), False))
    for mode in (Mode.PD, Mode.PPD):
        refused = route(mode, chat("x"), fleet, POLICY)
        assert isinstance(refused, Refusal) and refused.code == "no_worker_ready"
        found = routed(route(mode, chat("x"), fleet, Policy(decode_fallback=True)))
        assert str(found) == "D0" and found.fallback


def test_only_pairs_that_a_request_crossed() -> None:
    fleet = make_fleet("PPDD", pairs=False)
    answer = route(Mode.PD, chat("x"), fleet, POLICY)
    assert isinstance(answer, Refusal) and "pair" in answer.reason
    fleet.apply(PairHealth(url("P", 1), url("D", 1), True))
    for _ in range(3):
        assert str(route(Mode.PD, chat("x"), fleet, POLICY)) == "P1>D1"
    fleet.apply(PairHealth(url("P", 1), url("D", 1), False))
    assert isinstance(route(Mode.PD, chat("x"), fleet, POLICY), Refusal)


def test_avoided_ranks_are_not_tried_again() -> None:
    fleet = make_fleet("PPD")
    assert str(route(Mode.PD, chat("x"), fleet, POLICY, {url("P", 0)})) == "P1>D0"
    assert isinstance(route(Mode.PD, chat("x"), fleet, POLICY, {url("D", 0)}), Refusal)


@pytest.mark.parametrize("mode", [Mode.PD, Mode.PPD])
def test_several_prompts_and_echo_are_served_whole_by_d(mode: Mode) -> None:
    fleet = make_fleet("PD")
    assert str(route(mode, text("x", echo=True), fleet, POLICY)) == "D0"
    assert str(route(mode, ids([[1, 2], [3]]), fleet, POLICY)) == "D0"  # type: ignore[list-item]


@pytest.mark.parametrize("mode", [Mode.PD, Mode.PPD])
@pytest.mark.parametrize("extra", [{"n": 2}, {"n": "2"}, {"best_of": 3}])
def test_several_answers_are_ds_alone_where_p_hands_on_for_one(mode: Mode, extra: dict[str, Any]) -> None:
    fleet, one_choice = make_fleet("PD"), Policy(one_choice=True)
    for facts in (text("x", **extra), chat("x", **extra)):
        assert str(route(mode, facts, fleet, POLICY)) == "P0>D0"
        assert str(route(mode, facts, fleet, one_choice)) == "D0"
        assert str(route(mode, facts, fleet, Policy(one_choice=True, decode_alone=False))) == "P0>D0"
    for facts in (text("x", n=1, best_of=1), chat("x", n=None)):
        assert str(route(mode, facts, fleet, one_choice)) == "P0>D0"


def test_p_is_chosen_by_its_own_cache_and_load() -> None:
    facts = ids(list(range(640)))
    fleet = make_fleet("PPD")
    fleet.apply(CacheStored(facts, url("P", 1), 640))
    assert str(route(Mode.PD, facts, fleet, POLICY)) == "P1>D0"
    busy = fleet.ranks[url("P", 1)]
    fleet.apply(Routed("r", Route(Mode.PD, fleet.ranks[url("D", 0)], busy, prefill_uncached=3000), ids([1] * 3000)))
    assert str(route(Mode.PD, facts, fleet, POLICY)) == "P0>D0"


def test_ranks_of_p_and_d_pair_freely() -> None:
    fleet = make_fleet("PD", ranks=2)
    seen = set()
    for i in range(20):
        facts = chat(f"{i}")
        found = routed(route(Mode.PD, facts, fleet, Policy(balancer="random", seed=3)))
        serve(fleet, facts, found, str(i), 3)
        seen.add(str(found))
    assert {"P0>D0", "P1>D1"} <= seen <= {"P0>D0", "P0>D1", "P1>D0", "P1>D1"}


@given(
    st.sampled_from(list(Mode)),
    st.text("PDA", min_size=1, max_size=6),
    st.lists(st.integers(0, 40), max_size=8),
    st.sampled_from([None, "round_robin", "random", "least_loaded", "power_of_two", "consistent_hash"]),
)
def test_a_route_uses_ready_ranks_of_fitting_roles_and_deciding_changes_nothing(
    mode: Mode, letters: str, down: list[int], balancer: str | None
) -> None:
    fleet = make_fleet(letters)
    addresses = list(fleet.ranks)
    for i in down:
        fleet.apply(RankHealth(addresses[i % len(addresses)], False))
    facts, policy = chat("hello", "x", "there" * 100), Policy(balancer=balancer)
    answer = route(mode, facts, fleet, policy)
    assert answer == route(mode, facts, fleet, policy), "a decision must not depend on having been made before"
    alive = {r.letter for r in fleet.ranks.values() if fleet.ready(r.address)}
    wanted = {"A"} if mode in (Mode.AGGREGATED, Mode.REPLICATED) else {"P", "D"}
    if mode.encodes_apart and not wanted <= alive:
        wanted = {"A"}
    assert isinstance(answer, Route) == (wanted <= alive)
    if isinstance(answer, Route):
        used = [answer.decode, *([answer.prefill] if answer.prefill else [])]
        assert all(fleet.ready(rank.address) for rank in used)
        assert {rank.letter for rank in used} == wanted
