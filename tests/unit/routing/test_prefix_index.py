from __future__ import annotations

from collections import OrderedDict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tercet.core.hashing import CHUNK_HASH_BYTES
from tercet.routing.prefix_index import PrefixIndex


def chunk(name: str) -> bytes:
    return name.encode().ljust(CHUNK_HASH_BYTES)


def chain(name: str, length: int) -> bytes:
    return b"".join(chunk(f"{name}{i}") for i in range(length))


def beginnings(chunks: bytes) -> list[bytes]:
    return [chunks[:end] for end in range(CHUNK_HASH_BYTES, len(chunks) + 1, CHUNK_HASH_BYTES)]


def test_match_counts_leading_chunks_and_their_tokens() -> None:
    index = PrefixIndex(100)
    index.store(chain("a", 4), 60.0)
    assert index.match(chain("a", 6)) == (4, 240)
    assert index.match(chain("a", 2)) == (2, 120)
    assert index.match(chain("b", 2)) == (0, 0)


def test_what_is_not_held_after_all_may_come_back_with_its_beginning() -> None:
    index = PrefixIndex(100)
    index.store(chain("a", 6), 60.0)
    index.forget(chain("a", 4))
    assert index.match(chain("a", 6)) == (0, 0) and len(index) == 2
    index.forget(chain("a", 4))
    index.store(chain("a", 2), 50.0)
    assert index.match(chain("a", 6)) == (2, 100) and len(index) == 4
    index.store(chain("a", 5), 50.0)
    assert index.match(chain("a", 6)) == (6, 360) and len(index) == 6
    index.forget(chain("b", 4))
    index.clear()
    assert index.match(chain("a", 6)) == (0, 0) and len(index) == 0


def test_a_chain_loses_its_end_first_and_the_oldest_chain_goes_first() -> None:
    index = PrefixIndex(6)
    index.store(chain("a", 4), 1)
    index.store(chain("b", 4), 1)
    assert index.match(chain("b", 4)) == (4, 4)
    assert index.match(chain("a", 4)) == (2, 2)


def test_a_chain_longer_than_the_index_keeps_its_beginning() -> None:
    index = PrefixIndex(3)
    index.store(chain("a", 10), 1)
    assert index.match(chain("a", 10)) == (3, 3)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), max_size=40), st.integers(1, 20))
def test_never_above_capacity_and_never_more_than_was_stored(stores: list[tuple[str, int]], capacity: int) -> None:
    index = PrefixIndex(capacity)
    longest: dict[str, int] = {}
    for name, length in stores:
        index.store(chain(name, length), 2)
        longest[name] = max(longest.get(name, 0), length)
        assert len(index) <= capacity
        # What was just stored is there, as far as it fits.
        assert index.match(chain(name, length))[0] == min(length, capacity)
    for name, length in longest.items():
        assert index.match(chain(name, 20))[0] <= length


class EveryChunk:
    """The same, plainly: each beginning with its tokens, the least recently used first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens: OrderedDict[bytes, int] = OrderedDict()

    def store(self, chunks: bytes, per_chunk: float, pictures: tuple[tuple[int, int], ...]) -> None:
        known = beginnings(chunks)
        for count in range(min(len(known), self.capacity), 0, -1):
            told = round(count * per_chunk) + sum(more for before, more in pictures if before <= count)
            self.tokens[known[count - 1]] = told
            self.tokens.move_to_end(known[count - 1])
        self.resize(self.capacity)

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        while len(self.tokens) > capacity:
            self.tokens.popitem(last=False)


def parting(name: str, length: int, shared: int) -> bytes:
    """Return chunks of which the first are those of all that begin alike, and the others may be alike again."""
    return b"".join(chunk(f"{name[0]}{i}" if i < shared else f"{name}.{i % 2}") for i in range(length))


parted = st.builds(parting, st.sampled_from(["ax", "ay", "az", "bx"]), st.integers(1, 9), st.integers(0, 6))


@given(
    st.lists(
        st.tuples(parted, st.sampled_from([1.0, 2.5]), st.sampled_from([(), ((2, 50),)])) | st.integers(1, 20),
        max_size=60,
    ),
    st.integers(1, 20),
)
def test_it_is_as_if_each_chunk_were_kept_apart(happens: list[Any], capacity: int) -> None:
    index, plain = PrefixIndex(capacity), EveryChunk(capacity)
    for event in happens:
        if isinstance(event, int):
            index.resize(event)
            plain.resize(event)
        else:
            index.store(*event)
            plain.store(*event)
            chunks, per_chunk, _ = event
            held = index.holds(chunks, per_chunk)
            assert held == (plain.tokens.get(chunks) == round(len(chunks) // CHUNK_HASH_BYTES * per_chunk))
        assert len(index) == len(plain.tokens)
        for name in ("ax", "ay", "az", "bx"):
            for shared in range(7):
                known = beginnings(parting(name, 9, shared))
                count = next((i for i, begin in enumerate(known) if begin not in plain.tokens), len(known))
                assert index.match(known[-1]) == (count, plain.tokens[known[count - 1]] if count else 0)


@given(st.lists(st.tuples(parted, st.booleans()), max_size=40), st.integers(1, 20))
def test_what_is_forgotten_is_never_found_and_never_counted(happens: list[Any], capacity: int) -> None:
    index = PrefixIndex(capacity)
    for chunks, stored in happens:
        (index.store(chunks, 1) if stored else index.forget(chunks))
        assert index.match(chunks)[0] == (min(len(beginnings(chunks)), capacity) if stored else 0)
        assert 0 <= len(index) <= capacity
        order = list(index._runs)
        for i, run in enumerate(order):
            assert run.parent is None or order.index(run.parent) > i, "an end goes before its beginning"
        assert sum(len(run.chunks) for run in order) == index._listed
    for chunks, _ in happens:
        index.forget(chunks)
    index.resize(1)
    assert len(index) <= 1


def test_what_everybody_asks_for_is_listed_once() -> None:
    index = PrefixIndex(100)
    hot, cold = chain("hot", 20), chain("cold", 30)
    index.store(cold, 1)
    for i in range(1000):
        index.store(hot + chunk(f"h20/{i}"), 1)
    assert len(index) == 100 and index.match(hot) == (20, 20)
