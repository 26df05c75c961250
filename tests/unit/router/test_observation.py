from __future__ import annotations

import pytest

from tercet.core.digits import count_in
from tercet.http.relay import Relayed
from tercet.http.tail import Tail
from tercet.router.call import TAIL_BYTES
from tercet.router.observation import _estimate_tokens
from tercet.router.pictures import add_cache


def estimated(pieces: list[bytes]) -> int:
    tail = Tail(TAIL_BYTES)
    for piece in pieces:
        tail.add([piece])
    return _estimate_tokens(Relayed(0, 0, tail.size, tail.end()))


@pytest.mark.parametrize("size", [60, 190, 500])
@pytest.mark.parametrize("count", [1, 20, 1000])
def test_tokens_are_estimated_by_the_last_events_and_not_by_their_end(size: int, count: int) -> None:
    event = b"data: " + b"x" * (size - 8) + b"\n\n"
    for last in ([], [b"data: [DONE]\n\n"]):
        found = estimated([event] * count + last)
        assert abs(found - count) <= 0.03 * count


def test_where_there_are_no_events_nothing_is_estimated() -> None:
    assert estimated([]) == estimated([b"data: [DONE]\n\n"]) == 0


@pytest.mark.parametrize("text", ["\u00b2", "9" * 5000, "-1", "", "1.0"])
def test_a_workers_count_that_is_none_is_passed_over(text: str) -> None:
    assert count_in(text) is None
    counts = {"hit": 1}
    add_cache(counts, f"hit={text}, miss=2")
    assert counts == {"hit": 1, "miss": 2}
    assert count_in("12") == 12 and count_in(None) is None
