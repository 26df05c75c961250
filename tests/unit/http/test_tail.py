from __future__ import annotations

from random import Random

import pytest

from tercet.http.tail import Tail


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_is_the_end_and_enough_of_it(seed: int) -> None:
    random = Random(seed)
    limit, longest = random.choice([1, 100, 4096, 65536]), random.choice([1, 30, 300, 3000])
    pieces = [random.randbytes(random.randint(1, longest)) for _ in range(random.randint(0, 300))]
    tail, at = Tail(limit), 0
    while at < len(pieces):
        count = random.randint(1, 9)
        tail.add(pieces[at : at + count])
        at += count
    whole, times = b"".join(pieces), max(1, limit // 4096)
    assert tail.size == len(whole)
    assert len(tail.end()) <= limit
    assert whole.endswith(tail.end())
    assert len(tail.end()) >= min(limit, len(whole), max(times * 768, len(b"".join(pieces[-8 * times :]))))


def test_of_short_pieces_little_is_kept() -> None:
    tail = Tail(4096)
    for _ in range(1000):
        tail.add([b"x" * 110])
    assert len(tail.end()) < 2048


def test_without_a_limit_nothing_is_kept() -> None:
    tail = Tail(0)
    tail.add([b"abc"])
    assert (tail.size, tail.end()) == (3, b"")


@pytest.mark.parametrize("choices", [1, 4, 16])
def test_the_last_event_of_each_choice_stays(choices: int) -> None:
    tail = Tail(4096 * choices)
    for _ in range(500):
        tail.add([b"x" * 110])
    lasts = [b"data: the last of %3d" % i + b"." * 180 for i in range(choices)]
    for event in (*lasts, b"data: usage", b"data: [DONE]"):
        tail.add([event])
    assert all(last in tail.end() for last in lasts)
