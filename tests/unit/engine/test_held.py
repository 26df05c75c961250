from __future__ import annotations

import tracemalloc

from tercet.core.sampling import SamplingParams
from tercet.engine.held import HeldSequences
from tercet.engine.sequence import Sequence


def sequence(name: str, *blocks: int) -> Sequence:
    return Sequence(name, [1], 1, SamplingParams(1), 0.0, b"", blocks=list(blocks))


def test_leases_end_in_order_and_renewed_ones_later() -> None:
    held = HeldSequences()
    a, b, c = sequence("a", 1), sequence("b", 2), sequence("c", 3)
    for number, s in enumerate((a, b, c)):
        held.add(s, 10.0 + number)
    assert held.next_end() == 10.0
    assert held.renew("a", 20.0)
    assert held.next_end() == 11.0
    assert held.remove("b") is b
    assert held.next_end() == 12.0
    assert held.remove_expired(19.9) == [c]
    assert held.remove_expired(20.0) == [a]
    assert held.next_end() is None


def test_a_lease_can_be_shortened() -> None:
    held = HeldSequences()
    a = sequence("a", 1)
    held.add(a, 10.0)
    held.renew("a", 5.0)
    assert held.remove_expired(5.0) == [a]
    assert held.remove_expired(10.0) == []


def test_a_lease_renewed_to_the_same_end_expires_once() -> None:
    held = HeldSequences()
    a = sequence("a", 1)
    held.add(a, 10.0)
    held.renew("a", 10.0)
    assert held.remove_expired(10.0) == [a]
    assert held.next_end() is None


def test_who_is_not_held_is_not_known() -> None:
    held = HeldSequences()
    assert not held.renew("a", 1.0)
    assert held.remove("a") is None


def test_shared_blocks_count_once() -> None:
    held = HeldSequences()
    held.add(sequence("a", 1, 2), 1.0)
    held.add(sequence("b", 1, 3), 1.0)
    assert (len(held), held.blocks) == (2, 3)
    held.remove("a")
    assert (len(held), held.blocks) == (1, 2)


def test_leases_that_are_over_leave_nothing_behind_however_late_they_would_have_ended() -> None:
    """A simulated lease never ends by itself; a real one outlives its release by half a minute."""
    held = HeldSequences()

    def come_and_go(count: int) -> int:
        for i in range(count):
            held.add(sequence(f"{i}", i), 1e9)
            held.remove(f"{i}")
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        few = come_and_go(1000)
        assert come_and_go(20_000) - few < 20_000
    finally:
        tracemalloc.stop()
