"""A pool's pages can be made resident before anybody waits for them."""

from __future__ import annotations

from pathlib import Path

from tercet.transfer.pool import SharedPool


def resident_shared_kib() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssShmem"))
    return int(line.split()[1])


def test_touched_pages_are_resident() -> None:
    pool = SharedPool.create("test-touch", "pool", 32 << 20)
    try:
        before = resident_shared_kib()
        pool.touch()
        assert resident_shared_kib() - before >= 31 << 10
        assert bytes(pool.memory[:16]) == bytes(16)
    finally:
        pool.close()
