from __future__ import annotations

from tercet.routing.breaker import CLOSED, HALF_OPEN, OPEN, Breakers


def test_failures_in_a_row_open_it_and_an_answer_between_them_counts_anew() -> None:
    breakers = Breakers(3, 1.0, 8.0)
    assert [breakers.failed("a", 0.0) for _ in range(2)] == [False, False]
    breakers.served("a")
    assert [breakers.failed("a", 0.0) for _ in range(3)] == [False, False, True]
    assert breakers.state("a") == OPEN and breakers.state("b") == CLOSED
    assert not breakers.failed("a", 0.0), "it opens once"


def test_it_is_probed_after_pauses_that_double_up_to_a_bound() -> None:
    breakers = Breakers(1, 1.0, 4.0)
    breakers.failed("a", 0.0)
    now, pauses = 0.0, []
    for _ in range(4):
        began = now
        while not breakers.may_probe("a", now):
            now += 0.25
        pauses.append(now - began)
        assert breakers.state("a") == HALF_OPEN and breakers.may_probe("a", now)
        breakers.probe_failed("a", now)
        assert breakers.state("a") == OPEN
    assert pauses == [1.0, 2.0, 4.0, 4.0]
    breakers.close("a")
    assert breakers.state("a") == CLOSED and breakers.may_probe("a", now)
    breakers.failed("a", now)
    assert not breakers.may_probe("a", now + 0.9) and breakers.may_probe("a", now + 1.0), "from the start again"


def test_an_answer_asked_for_before_does_not_close_it() -> None:
    breakers = Breakers(1, 1.0, 4.0)
    breakers.failed("a", 0.0)
    breakers.served("a")
    assert breakers.state("a") == OPEN


def test_pairs_have_their_own_and_are_forgotten_with_either_end() -> None:
    breakers = Breakers(1, 1.0, 4.0)
    breakers.failed(("p", "d"), 0.0)
    breakers.failed(("p", "e"), 0.0)
    assert breakers.state("p") == breakers.state("d") == CLOSED
    breakers.forget("d")
    assert breakers.troubled() == [(("p", "e"), OPEN)]
    breakers.forget("p")
    assert breakers.troubled() == []
