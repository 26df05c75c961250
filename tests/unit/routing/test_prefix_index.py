from __future__ import annotations

from collections import OrderedDict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tercet.routing.prefix_index import PrefixIndex


def chain(name: str, length: int) -> list[bytes]:
    return [f"{name}{i}".encode() for i in range(length)]


def test_match_counts_leading_chunks_and_their_tokens() -> None:
    index = PrefixIndex(100)
    index.store(chain("a", 4), 60.0)
    assert index.match(chain("a", 6)) == (4, 240)
    assert index.match(chain("a", 2)) == (2, 120)
    assert index.match(chain("b", 2)) == (0, 0)
    index.forget(chain("a", 4)[2:])
    assert index.match(chain("a", 6)) == (2, 120)


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
    """The same, plainly: each chunk with its tokens, the least recently used first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens: OrderedDict[bytes, int] = OrderedDict()

    def store(self, chunks: tuple[bytes, ...], per_chunk: float, pictures: tuple[tuple[int, int], ...]) -> None:
        for count in range(min(len(chunks), self.capacity), 0, -1):
            told = round(count * per_chunk) + sum(more for before, more in pictures if before <= count)
            self.tokens[chunks[count - 1]] = told
            self.tokens.move_to_end(chunks[count - 1])
        self.resize(self.capacity)

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        while len(self.tokens) > capacity:
            self.tokens.popitem(last=False)


branching = st.builds(
    lambda name, length, shared: tuple(f"{name if i >= shared else name[0]}{i}".encode() for i in range(length)),
    st.sampled_from(["ax", "ay", "az", "bx"]),
    st.integers(1, 9),
    st.integers(0, 6),
)


@given(
    st.lists(
        st.tuples(branching, st.sampled_from([1.0, 2.5]), st.sampled_from([(), ((2, 50),)]))
        | st.integers(1, 20)
        | branching,
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
        elif isinstance(event[0], bytes):
            index.forget(event)
            for chunk in event:
                plain.tokens.pop(chunk, None)
        else:
            index.store(*event)
            plain.store(*event)
            chunks, per_chunk, _ = event
            assert index.holds(chunks, per_chunk) == (plain.tokens.get(chunks[-1]) == round(len(chunks) * per_chunk))
        assert index.entries.keys() == plain.tokens.keys()
        for chunk, prompt in index.entries.items():
            assert prompt.tokens(int(chunk.lstrip(b"abxyz")) + 1) == plain.tokens[chunk]


def test_what_everybody_asks_for_is_not_listed_without_end() -> None:
    index = PrefixIndex(100)
    hot, cold = chain("hot", 20), chain("cold", 30)
    index.store(cold, 1)
    for i in range(1000):
        index.store([*hot, f"{i}".encode()], 1)
    assert sum(prompt.left for prompt in (*index._newer, *index._older)) < 400
    assert len(index) == 100 and index.match(hot) == (20, 20)
