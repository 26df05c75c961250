from __future__ import annotations

from random import Random

import pytest

from tercet.http.tail import Tail


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_is_the_end_and_enough_of_it(seed: int) -> None:
    random = Random(seed)
    limit, longest = random.choice([1, 100, 4096]), random.choice([1, 30, 300, 3000])
    pieces = [random.randbytes(random.randint(1, longest)) for _ in range(random.randint(0, 300))]
    tail, at = Tail(limit), 0
    while at < len(pieces):
        count = random.randint(1, 9)
        tail.add(pieces[at : at + count])
        at += count
    whole = b"".join(pieces)
    assert tail.size == len(whole)
    assert len(tail.end()) <= limit
    assert whole.endswith(tail.end())
    assert len(tail.end()) >= min(limit, len(whole), max(768, len(b"".join(pieces[-8:]))))


def test_of_short_pieces_little_is_kept() -> None:
    tail = Tail(4096)
    for _ in range(1000):
        tail.add([b"x" * 110])
    assert len(tail.end()) < 2048


def test_without_a_limit_nothing_is_kept() -> None:
    tail = Tail(0)
    tail.add([b"abc"])
    assert (tail.size, tail.end()) == (3, b"")
