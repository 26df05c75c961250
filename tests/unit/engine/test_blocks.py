from __future__ import annotations

import pytest

from tercet.engine.blocks import BlockPool


def remembered(pool: BlockPool, *hashes: bytes) -> list[int]:
    """Allocate a block for each hash, enter it, and free them all."""
    blocks = pool.allocate(len(hashes))
    pool.remember(blocks, hashes)
    pool.free(blocks)
    return blocks


def test_blocks_go_round() -> None:
    pool = BlockPool(3)
    first = pool.allocate(2)
    assert len({*first, *pool.allocate(1)}) == 3
    assert (pool.available, pool.in_use) == (0, 3)
    pool.free(first)
    assert (pool.available, pool.in_use, pool.idle) == (2, 1, 0)
    assert sorted(pool.allocate(2)) == sorted(first)


def test_more_than_there_is_is_refused() -> None:
    pool = BlockPool(2)
    with pytest.raises(RuntimeError, match="3 blocks wanted, 2 available"):
        pool.allocate(3)
    assert pool.available == 2


def test_a_freed_block_keeps_its_prefix_until_room_is_needed() -> None:
    pool = BlockPool(3)
    a, b = remembered(pool, b"a", b"b")
    assert pool.match([b"a", b"b", b"c"]) == [a, b]
    assert (pool.idle, pool.available) == (2, 3)
    pool.allocate(1)  # the free one goes first
    assert pool.match([b"a", b"b"]) == [a, b]
    pool.allocate(1)
    assert pool.match([b"a", b"b"]) == [a]  # a prefix loses its end first


def test_the_least_recently_used_prefix_is_evicted() -> None:
    pool = BlockPool(2)
    a = remembered(pool, b"a")
    remembered(pool, b"b")
    pool.share(a)
    pool.free(a)
    pool.allocate(1)
    assert pool.match([b"a"]) == a
    assert pool.match([b"b"]) == []


def test_a_shared_block_lives_until_its_last_owner_leaves() -> None:
    pool = BlockPool(1)
    [block] = pool.allocate(1)
    pool.remember([block], [b"a"])
    pool.share([block])
    assert pool.references(block) == 2
    assert pool.count_idle([block]) == 0
    pool.free([block])
    assert pool.in_use == 1
    pool.free([block])
    assert (pool.in_use, pool.idle) == (0, 1)
    assert pool.count_idle([block]) == 1
    with pytest.raises(RuntimeError, match="freed twice"):
        pool.free([block])


def test_equal_contents_are_remembered_once() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(2)
    pool.remember([first], [b"a"])
    pool.remember([second], [b"a"])
    assert pool.match([b"a"]) == [first]
    pool.free([second])
    assert pool.idle == 0
    pool.free([first])
    assert pool.idle == 1


def test_forgetting_spares_what_is_in_use() -> None:
    pool = BlockPool(3)
    remembered(pool, b"a")
    held = pool.allocate(1)
    pool.remember([held[0]], [b"b"])
    assert not pool.forget_idle()
    assert pool.match([b"a"]) == []
    assert pool.match([b"b"]) == held
    pool.free(held)
    assert pool.forget_idle()
    assert (pool.idle, pool.available) == (0, 3)
