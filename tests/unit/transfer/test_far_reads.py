"""NIXL and Mooncake, whose libraries keep what they know of a peer and can't take a read back: nothing of it shows.

UCX would copy from a peer on this host without its help; over TCP it needs it, as it would from another machine.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from tercet.core.errors import MissingExtraError, TransferError, UsageError
from tercet.transfer import optional
from tercet.transfer.client import HandoffClient
from tercet.transfer.mooncake_engine import Engine
from tercet.transfer.registry import automatic, chosen
from tercet.transfer.server import HandoffServer
from tests.unit.transfer.peer import LEASE_S, SECRET, Prefill, PrefillProcess
from tests.unit.transfer.proxy import Proxy, vouch
from tests.unit.transfer.transports import FAR, usable

BLOCK = 64 << 10
BLOCKS = 1024
ALL = list(range(BLOCKS))
UNTOUCHED = 0xEE
LATE = "in time|deadline passed"


@pytest.fixture(params=FAR)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("UCX_TLS", "tcp")
    return usable(str(request.param))


@pytest.fixture
def client(transport: str) -> Iterator[HandoffClient]:
    with closing(HandoffClient(transports=[transport], secret=SECRET)) as handoff:
        yield handoff


@pytest.fixture
def process(transport: str) -> Iterator[PrefillProcess]:
    with closing(PrefillProcess(block_bytes=BLOCK, num_blocks=BLOCKS, transports=[transport])) as peer:
        yield peer


def marked_pool() -> memoryview:
    return memoryview(bytearray([UNTOUCHED]) * (BLOCK * BLOCKS))


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30.0
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def works_again(client: HandoffClient, peer: PrefillProcess | Prefill, pool: memoryview) -> None:
    """Fetch a fresh ticket, as often as a peer takes that was frozen and has to catch up."""

    def fetched() -> bool:
        try:
            client.fetch(peer.ticket([1]), [1], pool, [0], peer.block_bytes, 10.0)
        except TransferError as error:
            assert any(words in str(error) for words in ("in time", "gone", "reached")), error
            return False
        return True

    until(fetched)


def test_a_peer_killed_while_it_is_frozen_and_another_in_the_middle_of_a_read(
    process: PrefillProcess, client: HandoffClient, transport: str
) -> None:
    pool, ticket, later = marked_pool(), process.ticket(ALL), process.ticket(ALL)
    works_again(client, process, memoryview(bytearray(BLOCK)))
    with ThreadPoolExecutor(1) as threads:
        process.stop()
        fetch = threads.submit(client.fetch, ticket, ALL, pool, ALL, BLOCK, 30.0)
        time.sleep(0.3)
        assert not fetch.done()
        process.kill()
        with pytest.raises(TransferError):  # that it is gone, or after a while that it does not answer
            fetch.result(60)
    assert pool[0] == pool[-1] == UNTOUCHED
    with pytest.raises(TransferError):
        client.fetch(later, ALL, pool, ALL, BLOCK, 10.0)
    restarted = PrefillProcess(
        block_bytes=BLOCK, num_blocks=BLOCKS, transports=[transport], topology=process.topology, seed=1
    )
    mute = Proxy(restarted.control, answers=lambda frames: None)  # so that it cannot end before the kill, either
    with closing(restarted) as after, mute, ThreadPoolExecutor(1) as threads:
        client.fetch(after.ticket([3]), [3], pool, [0], BLOCK, 30.0)
        assert bytes(pool[:BLOCK]) == after.expected()[3 * BLOCK : 4 * BLOCK]
        ticket = vouch(after.ticket(ALL), mute.endpoint, after.addresses)
        fetch = threads.submit(client.fetch, ticket, ALL, pool, ALL, BLOCK, 10.0)
        until(lambda: pool[BLOCK] != UNTOUCHED or pool[2 * BLOCK - 1] != UNTOUCHED or fetch.done())
        after.kill()
        with pytest.raises(TransferError):
            fetch.result(60)


def test_late_bytes_of_a_read_that_was_given_up_do_not_reach_the_pool(
    process: PrefillProcess, client: HandoffClient, transport: str
) -> None:
    pool = marked_pool()
    works_again(client, process, pool)
    ticket, second = process.ticket(ALL), process.ticket(ALL)
    process.stop()
    try:
        begun = time.monotonic()
        with pytest.raises(TransferError, match=LATE):
            client.fetch(ticket, ALL, pool, ALL, BLOCK, 1.0)
        with pytest.raises(TransferError, match=LATE):
            client.fetch(second, ALL, pool, ALL, BLOCK, 2.0)
        assert time.monotonic() - begun < 20.0
        with closing(Prefill.start(transports=[transport])) as other:
            place = memoryview(bytearray(4096))
            client.fetch(other.ticket([7]), [7], place, [0], 4096, 30.0)
            assert bytes(place) == other.block(7)
        pool[:] = bytes([UNTOUCHED]) * len(pool)
    finally:
        process.process.send_signal(signal.SIGCONT)
    works_again(client, process, memoryview(bytearray(BLOCK)))
    assert bytes(pool) == bytes([UNTOUCHED]) * len(pool)


def test_a_peer_frozen_before_the_first_handshake(process: PrefillProcess, client: HandoffClient) -> None:
    ticket, pool = process.ticket(ALL), memoryview(bytearray(BLOCK))
    process.stop()
    try:
        begun = time.monotonic()
        with pytest.raises(TransferError, match=LATE):
            client.fetch(ticket, [1], pool, [0], BLOCK, 0.5)
        assert time.monotonic() - begun < 15.0
    finally:
        process.process.send_signal(signal.SIGCONT)
    works_again(client, process, pool)
    assert bytes(pool) == process.expected()[BLOCK : 2 * BLOCK]


def test_a_pool_that_is_registered_anew(client: HandoffClient, transport: str) -> None:
    with closing(Prefill.start(transports=[transport])) as prefill:
        pool = memoryview(bytearray(4096))
        client.fetch(prefill.ticket([1]), [1], pool, [0], 4096, 30.0)
        old = prefill.ticket([2])
        prefill.server.close()
        prefill.server = HandoffServer(
            prefill.leases,
            prefill.pool,
            prefill.block_bytes,
            engine_id=prefill.engine_id,
            transports=[transport],
            secret=SECRET,
            lease_s=LEASE_S,
            wake=lambda: None,
        )
        with pytest.raises(TransferError):
            client.fetch(old, [2], pool, [0], 4096, 10.0)
        client.fetch(prefill.ticket([3]), [3], pool, [0], 4096, 30.0)
        assert bytes(pool) == prefill.block(3)


def changed(address: dict[str, Any], transport: str) -> dict[str, dict[str, Any]]:
    """Return addresses that are not of the peer any more, by what changed in them."""
    elsewhere = {**address, "base": address["base"] + (1 << 40)}
    if transport == "mooncake":
        return {"elsewhere": elsewhere, "nobody": {**address, "session": "127.0.0.1:1"}, "no session": {"session": 5}}
    metadata = bytearray(base64.b64decode(address["metadata"]))
    metadata[len(metadata) // 2 :] = b""
    cut = {**address, "metadata": base64.b64encode(metadata).decode()}
    return {
        "elsewhere": elsewhere,
        "cut": cut,
        "renamed": {**address, "agent": "somebody else"},
        "no base64": {**address, "metadata": "*"},
    }


def test_changed_metadata_fails_that_request_and_no_other(client: HandoffClient, transport: str) -> None:
    with closing(Prefill.start(transports=[transport])) as prefill:
        pool, address = memoryview(bytearray(4096)), prefill.server.addresses[transport]
        for what, wrong in changed(address, transport).items():
            known = {key: address[key] for key in ("engine_id", "block_bytes", "num_blocks")}
            ticket = vouch(prefill.ticket([1]), prefill.server.control, {transport: {**wrong, **known}})
            with pytest.raises(TransferError):
                client.fetch(ticket, [1], pool, [0], 4096, 10.0)
            assert bytes(pool) != prefill.block(1), what
            client.fetch(prefill.ticket([2]), [2], pool, [0], 4096, 30.0)
            assert bytes(pool) == prefill.block(2), what


@pytest.mark.slow
def test_nobody_writes_what_mooncake_exports() -> None:
    usable("mooncake")
    with closing(Prefill.start(transports=["mooncake"])) as prefill, closing(Engine("127.0.0.1")) as stranger:
        address, before = prefill.server.addresses["mooncake"], prefill.block(1)
        mine = np.full(4096, UNTOUCHED, np.uint8)
        library: Any = stranger._engine
        where = address["base"] + 4096
        assert library.transfer_sync_read(address["session"], mine.ctypes.data, where, 4096) == 0
        assert mine.tobytes() == before  # a stranger may read: the module says so
        mine[:] = UNTOUCHED
        assert library.transfer_sync_write(address["session"], mine.ctypes.data, where, 4096) != 0
        assert prefill.block(1) == before
        with closing(HandoffClient(transports=["mooncake"], secret=SECRET)) as client:
            pool = memoryview(bytearray(4096))
            client.fetch(prefill.ticket([1]), [1], pool, [0], 4096, 30.0)
            assert bytes(pool) == before


@pytest.mark.slow
def test_ucx_listens_on_the_loopback_device_only() -> None:
    usable("nixl")
    code = (
        "import psutil\nfrom tercet.transfer.nixl_agent import Agent\n"
        "agents = [Agent('a', '127.0.0.1'), Agent('b', 'localhost')]\n"
        "ports = [c.laddr.ip for c in psutil.Process().net_connections('inet') if c.status == 'LISTEN']\n"
        "assert len(ports) >= 2 and set(ports) == {'127.0.0.1'}, ports\n[agent.close() for agent in agents]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as gone:
        for name in ("nixl", "mooncake"):
            gone.setitem(sys.modules, name, None)
            with pytest.raises(MissingExtraError, match=rf"tercet\[{name}\]"):
                chosen([name], "127.0.0.1")
        assert automatic("0.0.0.0") == ("shm", "tcp")
    if optional.runs_here("mooncake"):
        monkeypatch.setattr(optional, "MOONCAKE_LIBRARIES", {"libnosuch.so.9": "libnosuch9"})
        with pytest.raises(UsageError, match="apt-get install libnosuch9"):
            chosen(["mooncake"], "127.0.0.1")


def test_auto_takes_nixl_only_where_there_is_rdma(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    usable("nixl")
    monkeypatch.setattr(optional, "RDMA_DEVICES", tmp_path)
    assert automatic("0.0.0.0") == ("shm", "tcp")
    (tmp_path / "mlx5_0").mkdir()
    assert automatic("0.0.0.0") == ("shm", "nixl", "tcp")
    assert automatic("127.0.0.1") == automatic("localhost") == ("shm", "tcp")


def test_neither_library_is_loaded_before_it_is_chosen() -> None:
    code = (
        "import sys, tercet.cli.main, tercet.worker.front, tercet.worker.engine_process\n"
        "from tercet.transfer.registry import chosen\nchosen(['auto'], '0.0.0.0')\n"
        "print([name for name in ('nixl', 'mooncake') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]", done.stderr
