"""Peers that die, hang, restart or lie while a handoff is under way: an error in time, and the next handoff works."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypedDict

import psutil
import pytest

from tercet.core.errors import TransferError
from tercet.transfer.client import HandoffClient
from tercet.transfer.connection import Connections
from tercet.transfer.deadline import Deadline
from tercet.transfer.messages import derive_key
from tests.unit.transfer.peer import SECRET, Prefill, PrefillProcess, fresh_topology
from tests.unit.transfer.proxy import Proxy, Tamper, unchanged, vouch
from tests.unit.transfer.transports import EVERY, beside, usable

BLOCK = 64 << 10
BLOCKS = 128
ALL = list(range(BLOCKS))


@pytest.fixture(scope="module")
def lasting_ones() -> Iterator[dict[str, PrefillProcess]]:
    """Processes that every test leaves as it found them, by what they export through; they start when wanted."""
    peers: dict[str, PrefillProcess] = {}
    yield peers
    for peer in peers.values():
        peer.close()


@pytest.fixture
def lasting(lasting_ones: dict[str, PrefillProcess], transport: str) -> PrefillProcess:
    """A process that every test leaves as it found it."""
    names = beside(transport)
    if names[0] not in lasting_ones:
        lasting_ones[names[0]] = PrefillProcess(block_bytes=BLOCK, num_blocks=BLOCKS, transports=names)
    return lasting_ones[names[0]]


@pytest.fixture
def process() -> Iterator[PrefillProcess]:
    """A process of this test's own."""
    with closing(PrefillProcess(block_bytes=BLOCK, num_blocks=BLOCKS)) as peer:
        yield peer


@pytest.fixture(params=EVERY)
def transport(request: pytest.FixtureRequest) -> str:
    return usable(str(request.param))


@pytest.fixture
def client(transport: str) -> Iterator[HandoffClient]:
    with closing(HandoffClient(transports=[transport], secret=SECRET)) as handoff:
        yield handoff


class Sizes(TypedDict):
    block_bytes: int
    num_blocks: int
    transports: Sequence[str]


def insist(fetch: Callable[[], str]) -> None:
    """Fetch again while a peer that was thawed has not caught up with what it was asked before."""
    end = time.monotonic() + 30.0
    while True:
        try:
            fetch()
            return
        except TransferError as error:
            if "earlier read" not in str(error) or time.monotonic() > end:
                raise


def big_pool() -> memoryview:
    return memoryview(bytearray(BLOCK * BLOCKS))


def test_from_another_process(lasting: PrefillProcess, client: HandoffClient, transport: str) -> None:
    pool, ticket = big_pool(), lasting.ticket(ALL)
    lasting.ask("events")
    assert client.fetch(ticket, ALL, pool, ALL, BLOCK, 10.0) == transport
    assert pool == lasting.expected()
    assert lasting.ask("events") == [[ticket.id, None, True]]


def test_sixteen_readers_of_another_process(lasting: PrefillProcess, client: HandoffClient) -> None:
    before = lasting.ask("live")
    tickets = [lasting.ticket(ALL[i::16]) for i in range(16)]
    pool = big_pool()

    def fetch(index: int) -> None:
        blocks = ALL[index::16]
        client.fetch(tickets[index], blocks, pool, blocks, BLOCK, 10.0)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(fetch, range(16)))
    assert pool == lasting.expected()
    assert lasting.ask("live") == before


def test_kill_9_in_the_middle_of_a_read() -> None:
    blocks = list(range(1024))
    pool = memoryview(bytearray(BLOCK * len(blocks)))
    with (
        closing(PrefillProcess(block_bytes=BLOCK, num_blocks=len(blocks))) as process,
        closing(HandoffClient(transports=["tcp"], secret=SECRET)) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        for _ in range(20):  # it is over before P is stopped when this thread gets no core for 50 ms
            pool[:] = bytes(len(pool))
            ticket, later = process.ticket(blocks), process.ticket(blocks)
            fetch = threads.submit(client.fetch, ticket, blocks, pool, blocks, BLOCK, 60.0)
            while not any(pool[:64]) and not fetch.done():
                pass
            process.stop()
            time.sleep(0.2)
            if not fetch.done():
                break
            process.process.send_signal(signal.SIGCONT)
        begun = time.monotonic()
        process.kill()
        with pytest.raises(TransferError, match="gone"):
            fetch.result(60)
        assert time.monotonic() - begun < 20.0
        assert bytes(pool[-64:]) == bytes(64)
        begun = time.monotonic()
        with pytest.raises(TransferError, match="gone"):
            client.fetch(later, blocks, pool, blocks, BLOCK, 60.0)
        assert time.monotonic() - begun < 20.0


def test_a_peer_that_dies_between_two_requests_is_missed_at_once() -> None:
    with closing(Prefill.start()) as prefill, closing(Connections(derive_key(SECRET))) as connections:
        ticket, deadline = prefill.ticket([1]), Deadline.after(60.0)
        with (
            pytest.raises(TransferError, match="gone"),
            connections.to(prefill.server.control, deadline) as connection,
        ):
            assert connection.request(prefill.engine_id, "renew", ticket.id, deadline) == {"done": True}
            prefill.server.close()
            time.sleep(0.1)
            connection.request(prefill.engine_id, "renew", ticket.id, deadline)
        assert deadline.remaining_s > 40.0


def test_kill_9_between_copy_and_commit(process: PrefillProcess) -> None:
    # Shared memory needs no help from P to be copied, also when P is frozen: but nobody confirms the lease.
    pool, ticket = big_pool(), process.ticket(ALL)
    with closing(HandoffClient(transports=["shm"], secret=SECRET)) as client, ThreadPoolExecutor(1) as threads:
        assert client.renew(ticket)
        process.stop()
        fetch = threads.submit(client.fetch, ticket, ALL, pool, ALL, BLOCK, 60.0)
        time.sleep(0.3)
        assert not fetch.done()
        process.kill()
        with pytest.raises(TransferError, match="gone"):
            fetch.result(30)
        assert pool == process.expected()


def test_a_frozen_peer_costs_no_more_than_the_deadline(
    lasting: PrefillProcess, client: HandoffClient, transport: str
) -> None:
    ticket = lasting.ticket(ALL)
    assert client.renew(ticket)
    lasting.stop()
    try:
        begun = time.monotonic()
        with pytest.raises(TransferError, match=r"in time|deadline passed"):
            client.fetch(ticket, ALL, big_pool(), ALL, BLOCK, 0.5)
        assert 0.4 < time.monotonic() - begun < 10.0
    finally:
        lasting.process.send_signal(signal.SIGCONT)
    lasting.ask("revoke", ticket.id)


def test_a_frozen_peer_that_wakes_is_used_again(lasting: PrefillProcess, client: HandoffClient) -> None:
    ticket, again, pool = lasting.ticket(ALL), lasting.ticket(ALL), big_pool()
    lasting.stop()
    try:
        with pytest.raises(TransferError, match=r"in time|deadline passed"):
            client.fetch(ticket, ALL, pool, ALL, BLOCK, 0.3)
    finally:
        lasting.process.send_signal(signal.SIGCONT)
    insist(lambda: client.fetch(again, ALL, pool, ALL, BLOCK, 10.0))
    assert pool == lasting.expected()
    lasting.ask("revoke", ticket.id)


def test_a_restarted_peer_is_refused_and_then_used(client: HandoffClient, transport: str) -> None:
    pool = big_pool()
    sizes: Sizes = {"block_bytes": BLOCK, "num_blocks": BLOCKS, "transports": beside(transport)}
    topology = fresh_topology()
    with closing(PrefillProcess(**sizes, topology=topology)) as before:
        client.fetch(before.ticket(ALL), ALL, pool, ALL, BLOCK, 10.0)
        old = before.ticket(ALL)
        before.kill()
        with closing(PrefillProcess(**sizes, topology=topology, seed=1)) as after:
            begun = time.monotonic()
            with pytest.raises(TransferError):
                client.fetch(old, ALL, pool, ALL, BLOCK, 30.0)
            assert not client.release(old)
            assert time.monotonic() - begun < 20.0
            client.fetch(after.ticket(ALL), ALL, pool, ALL, BLOCK, 10.0)
            assert pool == after.expected()
            mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if topology in line]
            assert not any("(deleted)" in line for line in mapped)


def test_a_lease_that_ends_during_the_copy_is_noticed(client: HandoffClient, transport: str) -> None:
    with closing(Prefill.start(transports=beside(transport))) as prefill:
        ticket = prefill.ticket([1])

        def expire(frames: list[bytes]) -> list[bytes]:
            prefill.leases.revoke(ticket.id)  # the commit is on its way: everything is copied
            return frames

        with Proxy(prefill.server.control, requests=expire) as proxy:
            pool = memoryview(bytearray(4096))
            with pytest.raises(TransferError, match="ended"):
                client.fetch(vouch(ticket, proxy.endpoint, prefill.server.addresses), [1], pool, [0], 4096, 5.0)
            assert bytes(pool) == prefill.block(1)


def test_a_commit_that_gets_lost_is_a_failure(client: HandoffClient, transport: str) -> None:
    exporting = Prefill.start(transports=beside(transport))
    with closing(exporting) as prefill, Proxy(prefill.server.control, answers=lambda frames: None) as proxy:
        ticket = vouch(prefill.ticket([1]), proxy.endpoint, prefill.server.addresses)
        with pytest.raises(TransferError, match=r"in time|deadline passed"):
            client.fetch(ticket, [1], memoryview(bytearray(4096)), [0], 4096, 0.5)


def flip(index: int) -> Tamper:
    def tamper(frames: list[bytes]) -> list[bytes]:
        changed = bytearray(frames[index])
        changed[len(changed) // 2] ^= 1
        return [*frames[:index], bytes(changed), *frames[index + 1 :]] if index >= 0 else [*frames[:-1], bytes(changed)]

    return tamper


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (flip(-1), "checksum"),
        (lambda frames: [frames[0], frames[1][:-1]], "came back with"),
        (lambda frames: [frames[0], frames[1] + b"x"], "came back with"),
        (lambda frames: frames[:1], "not asked for"),
        (lambda frames: [*frames, b"x"], "not asked for"),
        (flip(0), "secret"),
        (lambda frames: [frames[1], frames[0]], "secret"),
        (lambda frames: [b"", *frames], "secret"),
        (lambda frames: None, r"in time|deadline passed"),
    ],
)
def test_corrupt_data_never_reaches_the_pool(tamper: Tamper, message: str) -> None:
    with closing(Prefill.start()) as prefill, closing(HandoffClient(transports=["tcp"], secret=SECRET)) as client:
        address = prefill.server.addresses["tcp"]
        with Proxy(address["endpoint"], answers=tamper) as proxy:
            ticket = vouch(
                prefill.ticket([1]), prefill.server.control, {"tcp": {**address, "endpoint": proxy.endpoint}}
            )
            pool = memoryview(bytearray(4096))
            with pytest.raises(TransferError, match=message):
                client.fetch(ticket, [1], pool, [0], 4096, 0.5 if "in time" in message else 30.0)
            assert bytes(pool) == bytes(4096)
        assert len(prefill.leases) == 1


def test_the_proxy_itself_is_harmless() -> None:
    with closing(Prefill.start()) as prefill, closing(HandoffClient(transports=["tcp"], secret=SECRET)) as client:
        address = prefill.server.addresses["tcp"]
        with Proxy(address["endpoint"], answers=unchanged) as proxy:
            ticket = vouch(
                prefill.ticket([1]), prefill.server.control, {"tcp": {**address, "endpoint": proxy.endpoint}}
            )
            assert client.fetch(ticket, [1], memoryview(bytearray(4096)), [0], 4096, 2.0) == "tcp"


def test_an_answer_to_another_request_is_refused() -> None:
    answers: list[list[bytes]] = []

    def repeat_first(frames: list[bytes]) -> list[bytes]:
        answers.append(frames)
        return answers[0]

    with closing(Prefill.start()) as prefill, closing(HandoffClient(transports=["shm"], secret=SECRET)) as client:
        with Proxy(prefill.server.control, answers=repeat_first) as proxy:
            ticket = vouch(prefill.ticket([1]), proxy.endpoint, prefill.server.addresses)
            assert client.renew(ticket)
            prefill.leases.revoke(ticket.id)
            with pytest.raises(TransferError, match="another request"):
                client.renew(ticket)


def test_closing_frees_a_thread_that_waits() -> None:
    with closing(Prefill.start()) as prefill:
        client = HandoffClient(transports=["shm"], secret=SECRET, control_timeout_s=30.0)
        with Proxy(prefill.server.control, answers=lambda frames: None) as proxy:
            ticket = vouch(prefill.ticket([1]), proxy.endpoint, prefill.server.addresses)
            with ThreadPoolExecutor(1) as threads:
                waiting = threads.submit(client.renew, ticket)
                time.sleep(0.2)
                closer = threading.Thread(target=client.close)
                closer.start()
                with pytest.raises(TransferError):
                    waiting.result(15)
                closer.join(15)
                assert not closer.is_alive()


def fds_settle_below(limit: int) -> bool:
    process, end = psutil.Process(), time.monotonic() + 30.0
    while process.num_fds() >= limit and time.monotonic() < end:
        time.sleep(0.02)
    return bool(process.num_fds() < limit)


def test_failures_leave_no_sockets_behind() -> None:
    with (
        closing(Prefill.start()) as prefill,
        Proxy(prefill.server.control, answers=lambda frames: None) as silent,
        closing(HandoffClient(transports=["shm"], secret=SECRET, control_timeout_s=0.02)) as hasty,
        closing(HandoffClient(transports=["shm"], secret=SECRET)) as client,
    ):
        ticket = prefill.ticket([1])
        nobody = vouch(ticket, "tcp://127.0.0.1:1", prefill.server.addresses)
        mute = vouch(ticket, silent.endpoint, prefill.server.addresses)
        assert client.renew(ticket)
        before = psutil.Process().num_fds()
        for _ in range(60):
            assert not client.release(nobody)
            with pytest.raises(TransferError, match=r"in time|deadline passed"):
                hasty.renew(mute)
        assert fds_settle_below(before + 12)
        assert client.release(ticket)


def test_peers_that_come_and_go_leave_no_sockets_behind() -> None:
    with closing(HandoffClient(transports=["tcp"], secret=SECRET)) as client:
        before = psutil.Process().num_fds()
        for _ in range(12):
            with closing(Prefill.start(transports=["tcp"])) as prefill:
                ticket = prefill.ticket([1])
                assert client.fetch(ticket, [1], memoryview(bytearray(4096)), [0], 4096, 5.0) == "tcp"
            with pytest.raises(TransferError, match="gone"):
                client.renew(ticket)
        assert fds_settle_below(before + 12)
