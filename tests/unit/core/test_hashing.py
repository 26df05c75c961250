from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tercet.core.hashing import extend_block_hashes, root_hash, text_chunk_hashes

TOKENS = st.lists(st.integers(0, 2**31), max_size=70)


@given(TOKENS, st.integers(1, 9), st.data())
def test_growing_step_by_step_equals_at_once(tokens: list[int], size: int, data: st.DataObject) -> None:
    root = root_hash("f")
    at_once: list[bytes] = []
    extend_block_hashes(at_once, tokens, size, root)
    assert len(at_once) == len(tokens) // size
    grown: list[bytes] = []
    extend_block_hashes(grown, tokens[: data.draw(st.integers(0, len(tokens)))], size, root)
    extend_block_hashes(grown, tokens, size, root)
    assert grown == at_once


def test_every_part_of_the_root_counts() -> None:
    roots = [
        root_hash("f"),
        root_hash("g"),
        root_hash("f", lora="l"),
        root_hash("f", cache_salt="l"),
        root_hash("f", media=["l"]),
        root_hash("f", media=["l", ""]),
    ]
    assert len(set(roots)) == len(roots)


def test_a_hash_depends_on_all_that_came_before() -> None:
    one: list[bytes] = []
    two: list[bytes] = []
    extend_block_hashes(one, [1, 2, 3, 4], 2, root_hash("f"))
    extend_block_hashes(two, [9, 2, 3, 4], 2, root_hash("f"))
    assert one[1] != two[1]


def test_text_chunks_share_a_prefix() -> None:
    root = root_hash("f")
    assert text_chunk_hashes(b"abcdefgh", 3, root) == text_chunk_hashes(b"abcdefxy", 3, root)
    assert text_chunk_hashes(b"abcdefghi", 3, root)[:2] == text_chunk_hashes(b"abcdef", 3, root)
