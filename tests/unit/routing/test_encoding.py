"""Which encode rank gets which picture, and which pictures need none."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.route import Route
from tercet.core.stage import Mode, Stage
from tercet.routing.encoding import place_again
from tercet.routing.events import (
    CacheCleared,
    CacheSized,
    ConversationRecorded,
    Encoded,
    Finished,
    FirstToken,
    ModelsListed,
    PicturesHeld,
    PicturesLost,
    RankHealth,
    RankRestarted,
    Routed,
    WorkerAdded,
)
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.modes import route
from tercet.routing.pictures import data_uri_key
from tercet.routing.policy import Policy
from tercet.routing.refusal import Refusal
from tests.unit.routing.fleets import MODEL, chat, make_fleet, routed, seeing, url

POLICY = Policy()


def shares(way: Route) -> dict[str, tuple[int, ...]]:
    return {share.rank.label: share.pictures for share in way.encode}


def go(fleet: FleetState, facts: RequestFacts, mode: Mode = Mode.EPD, policy: Policy = POLICY) -> Route:
    return routed(route(mode, facts, fleet, policy))


def test_text_skips_e_and_pictures_do_not() -> None:
    fleet = make_fleet("EPD")
    assert str(go(fleet, chat("hi"))) == "P0>D0"
    assert str(go(fleet, seeing("[a] what is it"))) == "E0>P0>D0"
    assert str(go(make_fleet("EA"), seeing("[a] what is it"))) == "E0>A0"
    assert str(go(make_fleet("EEPD"), seeing("[a] [b] what"))) == "E0+E1>P0>D0"


@pytest.mark.parametrize(("pictures", "encoders"), [(n, e) for n in range(1, 10) for e in range(1, 4)])
def test_contiguous_slices_and_the_remainder_to_the_least_loaded(pictures: int, encoders: int) -> None:
    fleet = make_fleet("E" * encoders + "PD")
    # Rank 0 is busy: it gets one of the remainder last.
    busy = seeing("[other]")
    fleet.apply(Routed("busy", Route(Mode.EPD, fleet.ranks[url("D", 0)], None, encode=go(fleet, busy).encode), busy))
    way = go(fleet, seeing(" ".join(f"[{i}]" for i in range(pictures))))
    given_out = [i for share in way.encode for i in share.pictures]
    assert sorted(given_out) == list(range(pictures))
    for share in way.encode:
        assert list(share.pictures) == list(range(share.pictures[0], share.pictures[-1] + 1)), "contiguous"
        assert pictures // encoders <= len(share.pictures) <= pictures // encoders + 1
    if pictures % encoders and encoders > 1:
        assert len(shares(way).get("E0", ())) == pictures // encoders, "the busy one gets none of the remainder"


def test_a_known_picture_goes_where_it_is_known_even_while_it_is_being_encoded() -> None:
    fleet = make_fleet("EEPD")
    first = seeing("[a] [b]")
    way = go(fleet, first)
    assert shares(way) == {"E0": (0,), "E1": (1,)}
    fleet.apply(Routed("1", way, first))
    assert shares(go(fleet, seeing("[b] [a]"))) == {"E0": (1,), "E1": (0,)}
    assert shares(go(fleet, seeing("[b] [b] [c] [c] [d]"))) == {"E0": (2, 3), "E1": (0, 1, 4)}
    fleet.apply(RankRestarted(url("E", 1)))
    fleet.apply(RankHealth(url("E", 1), True))
    assert "E1" not in shares(go(fleet, seeing("[a]")))


def test_load_of_the_encoders_follows_their_legs() -> None:
    fleet = make_fleet("EEPD")
    facts = seeing("[a] [b] [c]", tokens=10)
    way = go(fleet, facts)
    fleet.apply(Routed("1", way, facts))
    e0, e1 = fleet.ranks[url("E", 0)], fleet.ranks[url("E", 1)]
    assert {(fleet.load(e).requests, fleet.load(e).tokens) for e in (e0, e1)} == {(1, 20), (1, 10)}
    fleet.apply(Encoded("1", e0.address, (("a", 12), ("b", 12))))
    assert (fleet.load(e0).requests, fleet.load(e0).tokens) == (0, 0)
    assert fleet.picture_tokens.of(MODEL, "a") == 12 and fleet.picture_tokens.typical(MODEL) == 12
    fleet.apply(Finished("1"))
    assert (fleet.load(e1).requests, fleet.load(e1).tokens) == (0, 0)


def test_what_p_holds_is_named_and_not_encoded_again() -> None:
    fleet = make_fleet("EPD")
    fleet.apply(PicturesHeld(url("P", 0), MODEL, (("a", 16), ("b", 16))))
    assert str(go(fleet, seeing("[a] [b]"))) == "P0>D0"
    assert shares(go(fleet, seeing("[a] [c] []"))) == {"E0": (1, 2)}
    fleet.apply(RankHealth(url("E", 0), False))
    assert str(go(fleet, seeing("[a] [b]"))) == "P0>D0", "nobody needs E"
    assert isinstance(route(Mode.EPD, seeing("[c]"), fleet, POLICY), Refusal)
    fleet.apply(RankHealth(url("E", 0), True))
    fleet.apply(PicturesLost(url("P", 0), ("a",)))
    assert shares(go(fleet, seeing("[a] [b]"))) == {"E0": (0,)}
    fleet.apply(CacheCleared())
    assert shares(go(fleet, seeing("[a] [b]"))) == {"E0": (0, 1)}


def test_a_rank_is_believed_to_hold_no_more_than_it_can() -> None:
    fleet = make_fleet("EPD")
    p = url("P", 0)
    fleet.apply(PicturesHeld(p, MODEL, (("a", 16), ("b", 16), ("c", 16))))
    fleet.apply(CacheSized(p, None, 40))
    assert [key in fleet.pictures(p) for key in "abc"] == [False, True, True]
    fleet.apply(PicturesHeld(p, MODEL, (("b", 16),)))
    fleet.apply(PicturesHeld(p, MODEL, (("d", 20),)))
    assert [key in fleet.pictures(p) for key in "bcd"] == [True, False, True], "the least recently used goes"
    fleet.apply(CacheSized(p, None, 0))
    assert len(fleet.pictures(p)) == 0
    fleet.apply(PicturesHeld(p, MODEL, (("a", 16),)))
    assert shares(go(fleet, seeing("[a]"))) == {"E0": (0,)}, "it keeps none"


def test_a_rank_that_lacks_pictures_gets_them_and_what_was_encoded_before() -> None:
    fleet = make_fleet("EPPD")
    fleet.apply(PicturesHeld(url("P", 0), MODEL, (("a", 16), ("b", 16))))
    facts = seeing("[a] [b] [c]")
    way = go(fleet, facts)
    assert way.prefill is not None and way.prefill.label == "P0"
    fleet.apply(PicturesLost(url("P", 0), ("a",)))
    again = routed(place_again(way, [0], facts, fleet, POLICY, set()))
    assert again.prefill == way.prefill and shares(again) == {"E0": (0, 2)}


def make_seeing(letters: str, *also: str) -> FleetState:
    """Workers of the roles; those in `also` encode besides."""
    fleet = make_fleet(letters)
    for letter in also:
        worker = fleet.workers[url(letter, 0)]
        fleet.apply(WorkerAdded(worker.url, worker.stages | {Stage.ENCODE}))
        fleet.apply(ModelsListed(worker.url, (MODEL,)))
        fleet.apply(RankHealth(worker.url, True))
    return fleet


def test_when_no_encoder_is_left_who_prefills_encodes_if_it_may_and_can() -> None:
    local = Policy(encode_locally=True)
    blind, able = make_fleet("EA"), make_seeing("EA", "A")
    for fleet in (blind, able):
        fleet.apply(RankHealth(url("E", 0), False))
    assert isinstance(route(Mode.EPD, seeing("[a]"), able, POLICY), Refusal)
    assert isinstance(route(Mode.EPD, seeing("[a]"), blind, local), Refusal)
    way = go(able, seeing("[a] [b]"), policy=local)
    assert str(way) == "A0" and way.inline == (0, 1) and way.encode_fallback
    assert not go(able, chat("text")).encode_fallback


@pytest.mark.parametrize("mode", [Mode.AGGREGATED, Mode.REPLICATED, Mode.PD])
def test_without_encode_ranks_in_the_mode_the_bytes_go_to_who_prefills(mode: Mode) -> None:
    fleet = make_fleet("EPDA")
    way = go(fleet, seeing("[a] []"), mode)
    assert way.encode == () and way.inline == (0, 1) and not way.encode_fallback


@pytest.mark.parametrize("mode", [Mode.PPD, Mode.EPPD])
def test_a_later_turn_goes_straight_where_its_pictures_are_in_the_prefix(mode: Mode) -> None:
    fleet = make_fleet("EPPD")
    first, answer = seeing("[a] [b] what is it"), "a " * 10
    fleet.apply(PicturesHeld(url("P", 0), MODEL, (("a", 16), ("b", 16))))
    fleet.apply(ConversationRecorded(first, url("D", 0), first.prompt_tokens, 10))
    later = go(fleet, seeing("[a] [b] what is it", answer, "and now"), mode)
    assert str(later) == "D0" and later.inline == () and later.encode == ()
    more = go(fleet, seeing("[a] [b] what is it", answer, "[c] and now"), mode)
    if mode is Mode.PPD:
        assert more.prefill is not None and more.inline == (0, 1, 2)
    else:
        assert more.prefill is None and shares(more) == {"E0": (2,)}
    # Behind a URL may be another picture by now.
    fleet.apply(ConversationRecorded(seeing("[] hi"), url("D", 0), 30, 10))
    unknown = go(fleet, seeing("[] hi", answer, "and now"), mode)
    assert (unknown.prefill is not None) == (mode is Mode.PPD)
    assert shares(unknown) == ({} if mode is Mode.PPD else {"E0": (0,)})


def test_a_picture_of_many_tokens_is_long_input() -> None:
    fleet = make_fleet("EPD")
    first, answer = seeing("hi"), "a"
    fleet.apply(ConversationRecorded(first, url("D", 0), first.prompt_tokens, 1))
    small = go(fleet, seeing("hi", answer, "[c]", tokens=300), Mode.EPPD)
    large = go(fleet, seeing("hi", answer, "[c]", tokens=600), Mode.EPPD)
    assert (small.prefill, large.prefill) == (None, fleet.ranks[url("P", 0)])


def test_different_pictures_share_no_prefix_and_the_same_one_does() -> None:
    one, other, same = seeing("[a] x", "y", "z"), seeing("[b] x", "y", "z"), seeing("[a] x", "y", "[b] z")
    assert one.own != other.own and one.anchors[0].key != other.anchors[0].key
    assert one.anchors[0].key == same.anchors[0].key
    assert one.size == other.size


def test_tokens_of_pictures_come_where_they_stand() -> None:
    words = "w" * 600
    facts = seeing(f"{words} [a] {words}", "ok", "[b]", tokens=100)
    assert [p.key for p in facts.pictures] == ["a", "b"] and facts.picture_tokens == 200
    first_end = facts.pictures[0].end
    assert facts.tokens_after(first_end) == round((facts.size - first_end) * 0.25) + 100
    fleet = make_fleet("P")
    rank = fleet.ranks[url("P", 0)]
    fleet.apply(Routed("1", Route(Mode.PD, rank), facts))
    fleet.apply(PicturesHeld(rank.address, MODEL, ()))
    fleet.apply(FirstToken("1", facts.prompt_tokens, 0))
    assert fleet.tokens_per_byte(MODEL) == 0.25, "pictures teach nothing about text"
    begin = seeing(words, tokens=100)
    held = fleet.holding(begin, rank, None)
    assert held.held == pytest.approx(held.units * 0.25, abs=2), "no picture is counted that is not there"


def test_keys_are_of_bytes() -> None:
    picture = bytes(range(256)) * 5000
    encoded = b64encode(picture).decode()
    for head in ("data:image/png;base64,", "DATA:;charset=x;Base64,"):
        assert data_uri_key(head + encoded) == sha256(picture).hexdigest()
    for bad in ("http://x/y.png", "data:image/png,abc", "data:image/png;base64,a", "data:;base64,\xe9==", "file:///x"):
        assert data_uri_key(bad) is None


@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", ""]), min_size=1, max_size=9),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcd")), max_size=6),
)
def test_every_picture_has_exactly_one_place(keys: list[str], encoders: int, known: list[tuple[int, str]]) -> None:
    fleet = make_fleet("E" * encoders + "PD")
    for rank, key in known:
        fleet.apply(PicturesHeld(url("E", rank % encoders), MODEL, ((key, 16),)))
    way = go(fleet, seeing(" ".join(f"[{key}]" for key in keys)))
    given_out = [i for share in way.encode for i in share.pictures]
    assert sorted(given_out) == list(range(len(keys)))
    where = {i: share.rank.label for share in way.encode for i in share.pictures}
    for i, key in enumerate(keys):
        holders = {f"E{rank % encoders}" for rank, held in known if held == key}
        assert not holders or where[i] in holders, "affinity comes first"
        assert not key or where[i] == where[keys.index(key)], "the same picture is encoded once"
