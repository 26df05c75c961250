from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tercet.core.hashing import CHUNK_HASH_BYTES, chunk_hashes, extend_block_hashes, root_hash
from tercet.core.image import ImageSpan

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


def chain(*images: ImageSpan) -> list[bytes]:
    hashes: list[bytes] = []
    extend_block_hashes(hashes, [1, 2, 0, 0, 0, 0, 0, 8, 9, 9, 9, 9], 4, root_hash("f"), images)
    return hashes


def test_pictures_are_bound_where_they_lie() -> None:
    """Tokens 2 to 6 are placeholders: the blocks [0, 4) and [4, 8) overlap them."""
    text, one, other = chain(), chain(ImageSpan("a", 2, 5)), chain(ImageSpan("b", 2, 5))
    assert len({text[0], one[0], other[0]}) == 3 and one[1] != other[1]
    assert chain(ImageSpan("a", 2, 5)) == one, "the same picture gives the same chain"
    late = chain(ImageSpan("a", 2, 5), ImageSpan("c", 9, 2))
    assert late[:2] == one[:2] and late[2] != one[2], "a later picture leaves earlier blocks alone"
    moved = chain(ImageSpan("a", 3, 4))
    assert moved[0] != one[0]
    pair = chain(ImageSpan("a", 2, 2), ImageSpan("b", 4, 3))
    assert pair[1] != chain(ImageSpan("b", 2, 2), ImageSpan("a", 4, 3))[1]


@given(TOKENS, st.integers(1, 9), st.data())
def test_growing_with_pictures_equals_at_once(tokens: list[int], size: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(tokens)), max_size=6)))
    images = [ImageSpan(f"k{a % 2}", a, b - a) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    at_once: list[bytes] = []
    extend_block_hashes(at_once, tokens, size, b"r", images)
    grown: list[bytes] = []
    extend_block_hashes(grown, tokens[: data.draw(st.integers(0, len(tokens)))], size, b"r", images)
    extend_block_hashes(grown, tokens, size, b"r", images)
    assert grown == at_once


@given(st.binary(max_size=2000), st.binary(max_size=2000), st.integers(0, 2000), st.integers(1, 9))
def test_texts_begin_alike_as_far_as_their_chunks_do(one: bytes, two: bytes, same: int, size: int) -> None:
    root, width = root_hash("f"), CHUNK_HASH_BYTES
    two = one[:same] + two
    ones, twos = chunk_hashes(one, size, root), chunk_hashes(two, size, root)
    assert len(ones) == len(one) // size * width and len(twos) == len(two) // size * width
    for count in range(min(len(ones), len(twos)) // width + 1):
        alike = one[: count * size] == two[: count * size]
        assert (ones[: count * width] == twos[: count * width]) == alike


def test_the_root_is_bound_by_the_first_chunk_and_what_follows_can_be_hashed_apart() -> None:
    data, root = bytes(range(256)) * 8, root_hash("f")
    whole = chunk_hashes(data, 4, root)
    assert whole[:CHUNK_HASH_BYTES] != chunk_hashes(data, 4, root_hash("g"))[:CHUNK_HASH_BYTES]
    assert whole == chunk_hashes(data[:1200], 4, root) + chunk_hashes(data[1200:], 4)
    assert chunk_hashes(b"abc", 4, root) == b""
