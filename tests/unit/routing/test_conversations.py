"""Which conversation a text continues."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from tercet.core.hashing import CHUNK_HASH_BYTES
from tercet.routing.conversations import Conversations
from tercet.routing.facts import CHUNK_BYTES, RequestFacts, completion_facts, text_names


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.sampled_from(["say", "drop", "rank"])), max_size=40
    ),
    st.integers(1, 8),
)
def test_a_text_finds_whatever_turn_of_it_is_remembered(happens: list[tuple[str, int, str]], capacity: int) -> None:
    known, plain = Conversations(capacity), OrderedDict[bytes, int]()

    def said(name: str, chunks: int) -> RequestFacts:
        return completion_facts({"prompt": (name * CHUNK_BYTES) * chunks}, None, 0.25)

    for name, chunks, what in happens:
        facts = said(name, chunks)
        if what == "say":
            known.record(facts, name, 10, 1)
            plain[facts.own] = facts.size
            plain.move_to_end(facts.own)
            while len(plain) > capacity:
                plain.popitem(last=False)
        elif what == "drop":
            known.drop(facts)
            for known_as in text_names(facts.chunks):
                plain.pop(known_as, None)
        else:
            known.drop_rank(name)
            for known_as in text_names(said(name, 6).chunks):
                plain.pop(known_as, None)
        assert len(known) == len(plain)
        for each in "abc":
            facts = said(each, 6)
            names = text_names(facts.chunks)
            sizes = [plain[known_as] for known_as in names if known_as in plain and plain[known_as] < facts.size]
            found = known.find(facts)
            assert (None if found is None else found.conversation.size) == (max(sizes) if sizes else None)


def test_texts_of_one_name_by_chance_end_as_others_do() -> None:
    known = Conversations(2)
    for chunks in (b"1" * CHUNK_HASH_BYTES, b"2" * CHUNK_HASH_BYTES):
        known.record(RequestFacts("", size=CHUNK_BYTES, chunks=chunks, own=b"the same"), "a", 10, 1)
    known.drop_rank("a")
    assert len(known) == 0
