from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tercet.core.route import Route
from tercet.core.stage import ROLE_STAGES, Mode
from tercet.routing.events import (
    CacheCleared,
    CacheSized,
    CacheStored,
    ConversationRecorded,
    ConversationsCleared,
    Event,
    Finished,
    FirstToken,
    ModeChanged,
    ModelsListed,
    Prefilled,
    PrefixLost,
    RankHealth,
    RankRestarted,
    Routed,
    WorkerAdded,
    WorkerRemoved,
)
from tercet.routing.fleet import FleetState, Holding
from tests.unit.routing.fleets import MODEL, chat, ids, make_fleet, text, url


def test_a_url_expands_into_ranks_numbered_over_the_pool() -> None:
    fleet = make_fleet("PPD", ranks=2)
    assert [r.label for r in fleet.ranks.values()] == ["P0", "P1", "P2", "P3", "D0", "D1"]
    assert list(fleet.ranks)[:2] == ["http://p0:1@0", "http://p0:1@1"]
    assert make_fleet("A").ranks[url("A", 0)].rank is None


def test_candidates_are_ready_and_serve_the_model() -> None:
    fleet = make_fleet("AA")
    fleet.apply(ModelsListed(url("A", 1), ("other",)))
    assert [r.label for r in fleet.candidates("A", MODEL)] == ["A0"]
    assert [r.label for r in fleet.candidates("A", "other")] == ["A1"]
    assert [r.label for r in fleet.candidates("A", "")] == ["A0", "A1"]
    fleet.apply(RankHealth(url("A", 0), False))
    assert fleet.candidates("A", MODEL) == ()
    assert fleet.known_models == (MODEL, "other")


def test_load_follows_a_request_through_its_legs() -> None:
    fleet = make_fleet("PD")
    p, d = fleet.ranks[url("P", 0)], fleet.ranks[url("D", 0)]
    facts = ids(list(range(300)))
    fleet.apply(Routed("r", Route(Mode.PD, d, p, 0, 300, 300), facts))
    assert (fleet.load(p).requests, fleet.load(p).tokens) == (1, 300)
    assert (fleet.load(d).requests, fleet.load(d).tokens) == (1, 0)
    fleet.apply(Prefilled("r", 300))
    assert (fleet.load(p).requests, fleet.load(p).tokens) == (0, 0)
    assert fleet.holding(facts, p, None).held == 256
    assert fleet.holding(facts, d, None).held == 0
    fleet.apply(FirstToken("r", 300, 0))
    assert fleet.holding(facts, d, None) == Holding(256, 44, 256)
    fleet.apply(Finished("r"))
    fleet.apply(Finished("r"))
    assert fleet.load(d).requests == 0 and fleet.in_flight == 0


def test_a_direct_request_loads_its_rank_with_what_is_uncached_until_the_first_token() -> None:
    fleet = make_fleet("A")
    rank = fleet.ranks[url("A", 0)]
    fleet.apply(Routed("r", Route(Mode.AGGREGATED, rank, uncached=100), ids([1] * 100)))
    assert fleet.load(rank).tokens == 100
    fleet.apply(FirstToken("r", 100, 0))
    assert fleet.load(rank).tokens == 0 and fleet.load(rank).requests == 1


def test_tokens_per_byte_are_learnt_from_usage() -> None:
    fleet = make_fleet("A")
    rank = fleet.ranks[url("A", 0)]
    assert fleet.tokens_per_byte(MODEL) == 0.25
    for i in range(20):
        fleet.apply(Routed(str(i), Route(Mode.AGGREGATED, rank), text("ab" * 500)))
        fleet.apply(FirstToken(str(i), 500, 0))
        fleet.apply(Finished(str(i)))
    assert 0.49 < fleet.tokens_per_byte(MODEL) < 0.51
    # Names that no worker serves must not fill the memory.
    fleet.apply(Routed("x", Route(Mode.AGGREGATED, rank), chat("a", model="made-up")))
    fleet.apply(FirstToken("x", 50, 0))
    assert fleet.tokens_per_byte("made-up") == 0.25


def test_what_a_conversations_rank_holds_includes_the_answer() -> None:
    fleet = make_fleet("DD")
    first = chat("q" * 400)
    fleet.apply(ConversationRecorded(first, url("D", 1), 110, 90))
    second = chat("q" * 400, "a" * 360, "new question")
    known = fleet.conversations.find(second)
    assert known is not None and known.conversation.own == first.own
    d0, d1 = fleet.ranks[url("D", 0)], fleet.ranks[url("D", 1)]
    assert fleet.holding(second, d1, known) == Holding(200, second.tokens_after(second.anchors[0].resume), first.size)
    assert fleet.holding(second, d0, known).held == 0
    fleet.apply(ConversationRecorded(second, url("D", 1), 210, 10))
    third = chat("q" * 400, "a" * 360, "new question", "ok", "more")
    again = fleet.conversations.find(third)
    assert again is not None and again.conversation.own == second.own


def test_token_ids_of_a_later_turn_are_counted_exactly() -> None:
    fleet = make_fleet("D")
    rank = fleet.ranks[url("D", 0)]
    first = ids(list(range(100)))
    fleet.apply(ConversationRecorded(first, rank.address, 100, 20))
    second = ids(list(range(130)))
    assert fleet.holding(second, rank, fleet.conversations.find(second)) == Holding(120, 10, 100)
    # The same prompt again is no later turn without a session.
    assert fleet.conversations.find(ids(list(range(100)))) is None


def test_a_session_whose_history_was_changed_keeps_its_place_only() -> None:
    fleet = make_fleet("D")
    rank = fleet.ranks[url("D", 0)]
    fleet.apply(ConversationRecorded(chat("one", session="s"), rank.address, 10, 5))
    changed = chat("another", "beginning", "two", session="s")
    known = fleet.conversations.find(changed)
    assert known is not None and known.conversation.address == rank.address
    assert fleet.holding(changed, rank, known).held == 0
    same = chat("one", "answer", "two", session="s")
    known = fleet.conversations.find(same)
    assert known is not None and fleet.holding(same, rank, known).held == 15


def test_a_text_too_short_for_a_chunk_is_known_by_its_session_only() -> None:
    fleet = make_fleet("D")
    rank = fleet.ranks[url("D", 0)]
    fleet.apply(ConversationRecorded(text("hello"), rank.address, 2, 4))
    assert fleet.conversations.find(text("hello you there")) is None
    fleet.apply(ConversationRecorded(text("hello", "s"), rank.address, 2, 4))
    known = fleet.conversations.find(text("hello you there and more of this", "s"))
    assert known is not None and known.held_tokens == 6


def test_a_restart_forgets_everything_about_the_rank() -> None:
    fleet = make_fleet("PDD")
    facts, later = chat("q" * 600), chat("q" * 600, "a", "b")
    for d in (0, 1):
        fleet.apply(CacheStored(facts, url("D", d), 150))
    fleet.apply(ConversationRecorded(facts, url("D", 0), 150, 5))
    fleet.apply(RankRestarted(url("D", 0)))
    assert not fleet.ready(url("D", 0)) and fleet.ready(url("D", 1))
    assert not fleet.paired(url("P", 0), url("D", 0)) and fleet.paired(url("P", 0), url("D", 1))
    assert fleet.conversations.find(later) is None
    assert len(fleet.index(url("D", 0))) == 0 and len(fleet.index(url("D", 1))) > 0


def test_a_lost_prefix_is_forgotten() -> None:
    fleet = make_fleet("D")
    rank = fleet.ranks[url("D", 0)]
    first, second = chat("q" * 600), chat("q" * 600, "a", "b")
    fleet.apply(CacheStored(first, rank.address, 150))
    fleet.apply(ConversationRecorded(first, rank.address, 150, 5))
    fleet.apply(PrefixLost(second, rank.address))
    assert fleet.conversations.find(second) is None
    assert fleet.holding(second, rank, None).held == 0


def test_clearing() -> None:
    fleet = make_fleet("DD")
    first, second = chat("q" * 600), chat("q" * 600, "a", "b")
    for d in (0, 1):
        fleet.apply(CacheStored(first, url("D", d), 150))
    fleet.apply(ConversationRecorded(first, url("D", 0), 150, 5))
    fleet.apply(ConversationsCleared())
    assert fleet.conversations.find(second) is None and len(fleet.index(url("D", 0))) == 0
    for d in (0, 1):
        fleet.apply(CacheStored(first, url("D", d), 150))
    fleet.apply(CacheCleared(url("D", 0)))
    assert len(fleet.index(url("D", 0))) == 0 and len(fleet.index(url("D", 1))) == 2
    fleet.apply(CacheCleared())
    assert len(fleet.index(url("D", 1))) == 0


def test_news_of_those_who_left_is_ignored() -> None:
    fleet = make_fleet("AA")
    gone = fleet.ranks[url("A", 0)]
    facts = chat("q" * 600)
    fleet.apply(Routed("r", Route(Mode.AGGREGATED, gone), facts))
    fleet.apply(WorkerRemoved(url("A", 0)))
    for event in (
        FirstToken("r", 150, 0),
        Finished("r"),
        ConversationRecorded(facts, gone.address, 150, 5),
        CacheStored(facts, gone.address, 150),
        PrefixLost(facts, gone.address),
        CacheCleared(gone.address),
        RankHealth(gone.address, True),
        RankRestarted(gone.address),
        ModelsListed(gone.url, ("x",)),
        WorkerRemoved(gone.url),
    ):
        fleet.apply(event)
    assert [r.label for r in fleet.candidates("A", "")] == ["A1"]
    assert fleet.known_models == (MODEL,) and fleet.conversations.find(chat("q" * 600, "a", "b")) is None
    # A number is not used twice while the other still serves.
    fleet.apply(WorkerAdded(url("A", 5), ROLE_STAGES["A"]))
    assert fleet.ranks[url("A", 5)].label == "A2"


def test_the_mode_is_state() -> None:
    fleet = make_fleet("PD")
    fleet.apply(ModeChanged(Mode.PPD))
    assert fleet.mode is Mode.PPD


def test_conversations_are_bounded() -> None:
    fleet = FleetState(max_conversations=3)
    fleet.apply(WorkerAdded(url("A", 0), ROLE_STAGES["A"]))
    for i in range(10):
        fleet.apply(ConversationRecorded(chat(f"hello {i}", session=f"s{i}"), url("A", 0), 5, 5))
    assert len(fleet.conversations) == 3
    assert fleet.conversations.find(chat("hello 9", "x", "y", session="s9")) is not None
    assert fleet.conversations.find(chat("hello 0", "x", "y", session="s0")) is None


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """Requests that are routed and end in any order, some of their news missing, some of it doubled."""
    fleet = make_fleet("PPDD")
    p = [fleet.ranks[url("P", i)] for i in (0, 1)]
    d = [fleet.ranks[url("D", i)] for i in (0, 1)]
    story: list[Event] = []
    for i in range(draw(st.integers(1, 12))):
        prefill = draw(st.sampled_from([None, *p]))
        route = Route(
            Mode.PPD, draw(st.sampled_from(d)), prefill, uncached=draw(st.integers(0, 99)), prefill_uncached=7
        )
        story.append(Routed(str(i), route, ids([i] * 70)))
        rest: list[Event] = [
            Prefilled(str(i), 70),
            FirstToken(str(i), 70, 0),
            Finished(str(i)),
            RankRestarted(d[0].address),
        ]
        story += draw(st.lists(st.sampled_from(rest), max_size=6))
    return [*story, *(Finished(str(i)) for i in range(12))]


@given(stories())
def test_load_is_never_negative_and_zero_when_all_is_over(story: list[Event]) -> None:
    fleet = make_fleet("PPDD")
    for event in story:
        fleet.apply(event)
        assert all(fleet.load(r).requests >= 0 and fleet.load(r).tokens >= 0 for r in fleet.ranks.values())
    assert all((fleet.load(r).requests, fleet.load(r).tokens) == (0, 0) for r in fleet.ranks.values())
    assert fleet.in_flight == 0


def test_a_worker_that_turns_out_to_have_more_ranks() -> None:
    fleet = FleetState()
    fleet.apply(WorkerAdded(url("A", 0), ROLE_STAGES["A"]))
    fleet.apply(RankHealth(url("A", 0), True))
    fleet.apply(WorkerAdded(url("A", 0), ROLE_STAGES["A"], 2))
    assert [(r.label, r.address) for r in fleet.ranks.values()] == [("A0", "http://a0:1@0"), ("A1", "http://a0:1@1")]
    assert fleet.candidates("A", "") == ()


def test_what_a_cache_has_no_room_for_is_not_believed() -> None:
    fleet = make_fleet("D")
    rank = fleet.ranks[url("D", 0)]
    fleet.apply(CacheSized(rank.address, 1000))
    conversations = [[i] * 320 for i in range(4)]
    for prompt in conversations:
        fleet.apply(ConversationRecorded(ids(prompt), rank.address, 320, 10))
    held = []
    for prompt in conversations:
        later = ids([*prompt, *[99] * 20])
        known = fleet.conversations.find(later)
        assert known is not None, "who served it is remembered all the same"
        held.append(fleet.holding(later, rank, known).held)
    assert held == [0, 330, 330, 330], "1,000 tokens hold three such prompts"
