from __future__ import annotations

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
