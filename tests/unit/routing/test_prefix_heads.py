"""Who may hold the beginning of a prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tercet.core.hashing import CHUNK_HASH_BYTES
from tercet.routing.prefix_heads import FEWEST, PrefixHeads
from tercet.routing.prefix_index import PrefixIndex

STORES = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("PQR"), st.booleans()), max_size=60)


def _chunk(name: str) -> bytes:
    return name.encode().ljust(CHUNK_HASH_BYTES)


@given(STORES)
def test_it_names_those_whose_index_holds_the_chunk_and_no_others(stores: list[tuple[str, str, bool]]) -> None:
    indexes = {address: PrefixIndex(2) for address in "PQR"}
    heads = PrefixHeads()
    for name, address, clear in stores:
        chunk = _chunk(name)
        if clear:
            indexes[address].clear()
        indexes[address].store(chunk, 16.0)
        heads.add(chunk, address, indexes)
        for each in map(_chunk, "abcdef"):
            assert {*heads.holding(each, indexes)} == {at for at, index in indexes.items() if index.match(each)[0]}


def test_a_rank_that_left_holds_nothing() -> None:
    indexes = {"P": PrefixIndex(2)}
    indexes["P"].store(_chunk("a"), 16.0)
    heads = PrefixHeads()
    heads.add(_chunk("a"), "P", indexes)
    del indexes["P"]
    assert heads.holding(_chunk("a"), indexes) == ()
    assert len(heads) == 0


def test_beginnings_that_no_index_holds_any_more_do_not_pile_up() -> None:
    indexes = {"P": PrefixIndex(10)}
    heads = PrefixHeads()
    for i in range(5 * FEWEST):
        chunk = i.to_bytes(8, "little")
        indexes["P"].store(chunk, 16.0)
        heads.add(chunk, "P", indexes)
        assert len(heads) <= FEWEST + 1
    assert heads.holding((5 * FEWEST - 1).to_bytes(8, "little"), indexes) == ("P",)
