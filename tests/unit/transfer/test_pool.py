from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tercet.core.errors import UsageError
from tercet.transfer.pool import SHM_DIR, SharedPool, sweep
from tests.unit.transfer.peer import PrefillProcess, fresh_topology


@pytest.fixture
def topology() -> Iterator[str]:
    name = fresh_topology()
    yield name
    for path in SHM_DIR.glob(f"tercet.{name}*"):
        path.unlink()


def segments(topology: str) -> list[str]:
    return sorted(path.name for path in SHM_DIR.glob(f"tercet.{topology}*"))


def test_a_pool_is_private_named_by_topology_and_gone_when_closed(topology: str) -> None:
    before = os.umask(0)
    try:
        pool = SharedPool.create(topology, "decode-0-1", 10_000)
    finally:
        os.umask(before)
    path = SHM_DIR / f"tercet.{topology}.decode-0-1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert pool.memory.nbytes == 10_000
    assert not pool.memory.readonly
    assert bytes(pool.memory) == bytes(10_000)
    pool.close()
    pool.close()
    assert not path.exists()


def test_memory_survives_the_pool_while_somebody_looks_at_it(topology: str) -> None:
    pool = SharedPool.create(topology, "p", 4096)
    view = np.frombuffer(pool.memory, np.uint8)
    pool.close()
    assert segments(topology) == []
    view[:] = 7
    assert view.sum() == 7 * 4096


def test_a_live_pool_is_neither_swept_nor_replaced(topology: str) -> None:
    pool = SharedPool.create(topology, "p", 4096)
    assert sweep(topology) == []
    with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
        SharedPool.create(topology, "p", 4096)
    assert segments(topology) == [f"tercet.{topology}.p"]
    pool.close()


def test_kill_9_leaves_a_segment_that_a_sweep_removes() -> None:
    peer = PrefillProcess()
    try:
        assert sweep(peer.topology) == []
        assert peer.segment.exists()
        peer.kill()
        assert peer.segment.exists()
        assert sweep(fresh_topology()) == []
        assert sweep(peer.topology) == [peer.segment.name]
        assert not peer.segment.exists()
        assert sweep(peer.topology) == []
    finally:
        peer.close()


def test_a_restarted_owner_replaces_its_own_leftover() -> None:
    peer = PrefillProcess()
    try:
        peer.kill()
        pool = SharedPool.create(peer.topology, "prefill-0", 8192)
        assert segments(peer.topology) == [peer.segment.name]
        assert peer.segment.stat().st_size == 4096 + 8192
        assert sweep(peer.topology) == []
        pool.close()
    finally:
        peer.close()


def test_sweeping_everything_finds_leftovers_of_other_topologies(topology: str) -> None:
    path = SHM_DIR / f"tercet.{topology}.left-behind"
    path.touch(0o600)
    assert path.name in sweep()
    assert not path.exists()


def test_a_sweep_keeps_to_its_topology(topology: str) -> None:
    longer = SHM_DIR / f"tercet.{topology}-b.p"
    foreign = SHM_DIR / f"other.{topology}.p"
    try:
        for path in (longer, foreign):
            path.touch(0o600)
        assert sweep(topology) == []
        assert longer.exists()
        assert foreign.exists()
    finally:
        foreign.unlink()


def test_a_link_in_the_place_of_a_segment_is_not_followed(topology: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = SHM_DIR / f"tercet.{topology}.p"
    link.symlink_to(victim)
    with pytest.raises(UsageError, match="in the way"):
        SharedPool.create(topology, "p", 4096)
    os.mkfifo(SHM_DIR / f"tercet.{topology}.pipe")
    assert sweep(topology) == []
    assert victim.read_text() == "precious"


def test_too_little_shared_memory_is_said_at_once(topology: str) -> None:
    with pytest.raises(UsageError, match="MiB are free"):
        SharedPool.create(topology, "p", 1 << 50)
    assert segments(topology) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", "x" * 100])
def test_bad_topology_names(name: str) -> None:
    with pytest.raises(UsageError):
        SharedPool.create(name, "p", 4096)


def test_creators_and_sweepers_do_not_trip_over_each_other(topology: str) -> None:
    code = f"""
import threading, sys
from tercet.transfer.pool import sweep
print("up", flush=True)
ending = threading.Thread(target=sys.stdin.read)
ending.start()
swept = 0
while ending.is_alive() or swept < 50:
    sweep({topology!r})
    swept += 1
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sweeper:
        assert sweeper.stdin is not None and sweeper.stdout is not None
        sweeper.stdout.readline()
        for _ in range(1000):
            pool = SharedPool.create(topology, "p", 4096)
            assert segments(topology) == [f"tercet.{topology}.p"]
            pool.close()
        sweeper.stdin.close()
    assert sweeper.returncode == 0
