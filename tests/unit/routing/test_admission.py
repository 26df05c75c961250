from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tercet.core.stage import Mode
from tercet.routing.admission import FairQueue, Pace, asked_priority, places
from tests.unit.routing.fleets import make_fleet


def drain(queue: FairQueue[str]) -> list[str]:
    out = []
    while (item := queue.pop()) is not None:
        out.append(item)
    return out


def test_tenants_take_turns_however_much_one_of_them_asks() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for i in range(4):
        queue.push("greedy", 0, f"g{i}")
    queue.push("modest", 0, "m0")
    queue.push("modest", 0, "m1")
    assert drain(queue) == ["g0", "m0", "g1", "m1", "g2", "g3"]


def test_the_urgent_go_first() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for priority, name in ((0, "a"), (-1, "b"), (5, "c"), (0, "d"), (5, "e")):
        queue.push(name, priority, name)
    assert drain(queue) == ["c", "e", "a", "d", "b"]


def test_who_fills_the_queue_gives_way_to_others() -> None:
    queue: FairQueue[str] = FairQueue(3)
    assert [queue.push("greedy", 0, f"g{i}") for i in range(4)] == [None, None, None, "g3"]
    assert queue.push("modest", 0, "m0") == "g2", "the newest of who has most"
    assert queue.push("modest", 0, "m1") == "m1", "two each: whoever comes has no better claim"
    assert queue.push("modest", 1, "urgent") == "g1"
    assert queue.push("late", -1, "late") == "late"
    assert drain(queue) == ["urgent", "g0", "m0"]


def test_a_queue_without_room_sends_everybody_away() -> None:
    queue: FairQueue[str] = FairQueue(0)
    assert queue.push("a", 0, "x") == "x" and queue.pop() is None and len(queue) == 0


@given(
    st.lists(st.tuples(st.sampled_from(["push", "push", "pop", "discard"]), st.integers(0, 3), st.integers(-1, 1))),
    st.integers(0, 6),
)
def test_nothing_is_lost_or_given_twice(steps: list[tuple[str, int, int]], bound: int) -> None:
    queue: FairQueue[int] = FairQueue(bound)
    inside: dict[int, tuple[str, int]] = {}
    for number, (what, tenant, priority) in enumerate(steps):
        if what == "push":
            inside[number] = (str(tenant), priority)
            gone = queue.push(str(tenant), priority, number)
            assert (gone is None) == (len(inside) <= bound)
            if gone is not None:
                assert inside[gone][1] == min(p for _, p in inside.values())
                del inside[gone]
        elif what == "pop":
            item = queue.pop()
            assert (item is None) == (not inside)
            if item is not None:
                assert inside[item][1] == max(p for _, p in inside.values())
                del inside[item]
        elif inside:
            item = next(iter(inside))
            queue.discard(*inside.pop(item), item)
            queue.discard("nobody", 7, item)
        assert len(queue) == len(inside)


def test_when_to_come_back_follows_from_how_fast_places_become_free() -> None:
    pace = Pace()
    assert pace.wait_s(1000) == 1.0, "nothing is known yet"
    for i in range(20):
        pace.freed(i * 0.5)
    assert pace.wait_s(20) == 10.0 and pace.wait_s(0) == 1.0 and pace.wait_s(10**6) == 60.0


def test_priorities() -> None:
    asked = [asked_priority(text, allowed=True) for text in (None, "", "x", "3", "99", "-3", "-99")]
    assert asked == [0, 0, 0, 3, 9, -3, -9]
    assert [asked_priority(text, allowed=False) for text in ("3", "-3")] == [0, -3]


def test_places_are_those_of_the_ranks_that_answer() -> None:
    fleet = make_fleet("AAPDDE", ranks=2)
    counts = [places(fleet, mode, "m", 10) for mode in (Mode.REPLICATED, Mode.PD, Mode.EPD)]
    assert places(fleet, Mode.PD, "m", 10, hybrid=True) == 80
    assert counts == [40, 40, 80] and places(fleet, Mode.PD, "other", 10) == 0
