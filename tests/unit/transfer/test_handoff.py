"""A handoff between a client and a server in this process: what is read, refused, counted and told to the engine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tercet.core.errors import TransferError, UsageError
from tercet.core.ticket import Ticket
from tercet.transfer.client import HandoffClient
from tercet.transfer.leases import LeaseEvent, LeaseTable
from tercet.transfer.registry import chosen
from tercet.transfer.server import HandoffServer
from tests.unit.transfer.peer import LEASE_S, SECRET, Prefill, make_ticket
from tests.unit.transfer.proxy import vouch
from tests.unit.transfer.transports import EVERY, NEAR, beside, usable

BLOCK = 4096


@pytest.fixture
def prefill(request: pytest.FixtureRequest) -> Iterator[Prefill]:
    chosen = request.getfixturevalue("transport") if "transport" in request.fixturenames else "shm"
    with closing(Prefill.start(block_bytes=BLOCK, transports=beside(chosen))) as peer:
        yield peer


@pytest.fixture(params=EVERY)
def transport(request: pytest.FixtureRequest) -> str:
    return usable(str(request.param))


@pytest.fixture
def client(transport: str) -> Iterator[HandoffClient]:
    with closing(HandoffClient(transports=[transport], secret=SECRET)) as handoff:
        yield handoff


def empty_pool(blocks: int = 32) -> memoryview:
    return memoryview(bytearray(blocks * BLOCK))


def test_blocks_arrive_where_they_belong(prefill: Prefill, client: HandoffClient, transport: str) -> None:
    ticket = prefill.ticket([3, 4, 5, 9, 31])
    pool = empty_pool()
    pool[0:BLOCK] = b"\xee" * BLOCK
    remote, local = [9, 3, 4, 31], [1, 7, 8, 30]
    assert client.fetch(ticket, remote, pool, local, BLOCK, 5.0) == transport
    for source, target in zip(remote, local, strict=True):
        assert bytes(pool[target * BLOCK : (target + 1) * BLOCK]) == prefill.block(source)
    untouched = [index for index in range(32) if index not in local]
    assert bytes(pool[0:BLOCK]) == b"\xee" * BLOCK
    assert all(bytes(pool[i * BLOCK : (i + 1) * BLOCK]) == bytes(BLOCK) for i in untouched[1:])
    assert prefill.leases.drain() == [LeaseEvent(ticket.id, None, True)]
    assert prefill.woken
    assert not client.renew(ticket)


@pytest.mark.parametrize("transport", NEAR, indirect=True)
def test_the_ticket_survives_its_journey_as_json(prefill: Prefill, client: HandoffClient) -> None:
    ticket = Ticket.from_params(prefill.ticket([2]).to_params())
    pool = empty_pool()
    client.fetch(ticket, [2], pool, [0], BLOCK, 5.0)
    assert bytes(pool[:BLOCK]) == prefill.block(2)


@pytest.mark.parametrize("transport", NEAR, indirect=True)
def test_a_pool_of_another_item_size(prefill: Prefill, client: HandoffClient) -> None:
    pool = empty_pool().cast("H")
    client.fetch(prefill.ticket([2]), [2], pool, [1], BLOCK, 5.0)
    assert bytes(pool.cast("B")[BLOCK : 2 * BLOCK]) == prefill.block(2)


@pytest.mark.parametrize("transport", NEAR, indirect=True)
def test_renewing_and_releasing(prefill: Prefill, client: HandoffClient) -> None:
    ticket = prefill.ticket([1])
    before = time.monotonic()
    assert client.renew(ticket)
    [event] = prefill.leases.drain()
    assert event.until is not None
    assert before + LEASE_S <= event.until <= time.monotonic() + LEASE_S
    assert client.release(ticket)
    assert not client.release(ticket)
    assert prefill.leases.drain() == [LeaseEvent(ticket.id, None, False)]
    assert len(prefill.woken) == 2


@pytest.mark.parametrize("transport", NEAR, indirect=True)
def test_nothing_to_copy_only_accepts(prefill: Prefill, client: HandoffClient) -> None:
    ticket = prefill.ticket([1])
    assert client.fetch(ticket, [], empty_pool(), [], BLOCK, 5.0) == "none"
    assert prefill.leases.drain() == [LeaseEvent(ticket.id, None, True)]
    prefill.leases.revoke(ticket.id)
    assert client.fetch(ticket, [], empty_pool(), [], BLOCK, 5.0) == "none"


def test_an_expired_lease_is_refused(prefill: Prefill, client: HandoffClient) -> None:
    ticket = prefill.ticket([1, 2])
    prefill.leases.revoke(ticket.id)
    with pytest.raises(TransferError, match="ended"):
        client.fetch(ticket, [1], empty_pool(), [1], BLOCK, 5.0)
    assert prefill.leases.drain() == []


@pytest.mark.parametrize("transport", NEAR, indirect=True)
def test_a_ticket_never_granted_is_refused(prefill: Prefill, client: HandoffClient) -> None:
    ticket = make_ticket(prefill.engine_id, prefill.server.control, prefill.server.addresses, [1])
    with pytest.raises(TransferError, match="ended"):
        client.fetch(ticket, [1], empty_pool(), [1], BLOCK, 5.0)


@pytest.mark.parametrize("transport", NEAR, indirect=True)
@pytest.mark.parametrize(
    ("remote", "local", "block_bytes"),
    [
        ([99], [0], BLOCK),
        ([-1], [0], BLOCK),
        ([1], [32], BLOCK),
        ([1], [-1], BLOCK),
        ([1, 1], [0, 1], BLOCK),
        ([1, 2], [0, 0], BLOCK),
        ([1, 2], [0], BLOCK),
        ([5], [0], BLOCK),
        ([1], [0], BLOCK // 2),
        ([1], [0], 0),
    ],
)
def test_bad_block_ids_are_refused_before_anything_moves(
    prefill: Prefill, client: HandoffClient, remote: list[int], local: list[int], block_bytes: int
) -> None:
    ticket, pool = prefill.ticket([1, 2]), empty_pool()
    with pytest.raises(TransferError):
        client.fetch(ticket, remote, pool, local, block_bytes, 5.0)
    assert bytes(pool) == bytes(len(pool))
    assert len(prefill.leases) == 1


def test_a_ticket_that_lies_about_its_blocks_gets_none_by_tcp(prefill: Prefill) -> None:
    lying = replace(prefill.ticket([1]), block_ids=(1, 2))
    with closing(HandoffClient(transports=["tcp"], secret=SECRET)) as client:
        with pytest.raises(TransferError, match="does not cover"):
            client.fetch(lying, [2], empty_pool(), [0], BLOCK, 5.0)


def test_another_secret_reaches_nobody(prefill: Prefill, transport: str) -> None:
    ticket = prefill.ticket([1])
    with closing(HandoffClient(transports=[transport], secret=b"another secret")) as stranger:
        begun = time.monotonic()
        with pytest.raises(TransferError, match="secret"):
            stranger.fetch(ticket, [1], empty_pool(), [0], BLOCK, 60.0)
        with pytest.raises(TransferError, match="secret"):
            stranger.renew(ticket)
        assert not stranger.release(ticket)
        assert time.monotonic() - begun < 20.0
    assert len(prefill.leases) == 1


def test_a_client_that_believes_a_forged_address_is_not_answered(prefill: Prefill, transport: str) -> None:
    # The forger marks P's real address with the secret that the misled reader holds.
    secret = b"another secret"
    ticket = vouch(prefill.ticket([1]), prefill.server.control, prefill.server.addresses, secret)
    with closing(HandoffClient(transports=[transport], secret=secret)) as stranger:
        with pytest.raises(TransferError, match="in time"):
            stranger.fetch(ticket, [1], empty_pool(), [0], BLOCK, 0.5)
    assert prefill.server.dropped == {"unauthenticated": 1}
    assert len(prefill.leases) == 1


@pytest.mark.parametrize("transport", NEAR, indirect=True)
def test_a_changed_endpoint_is_never_contacted(prefill: Prefill, client: HandoffClient) -> None:
    ticket = replace(prefill.ticket([1]), control="tcp://127.0.0.1:1")
    with pytest.raises(TransferError, match="forged"):
        client.fetch(ticket, [1], empty_pool(), [0], BLOCK, 5.0)
    with pytest.raises(TransferError, match="forged"):
        client.renew(ticket)


@pytest.mark.parametrize("transport", NEAR, indirect=True)
def test_another_engine_at_the_same_endpoint_is_told_apart(prefill: Prefill, client: HandoffClient) -> None:
    addresses = {name: {**address, "engine_id": "before"} for name, address in prefill.server.addresses.items()}
    ticket = prefill.ticket([1])
    old = vouch(replace(ticket, engine_id="before"), prefill.server.control, addresses)
    with pytest.raises(TransferError, match="before is gone"):
        client.fetch(old, [1], empty_pool(), [0], BLOCK, 5.0)
    assert len(prefill.leases) == 1


def test_auto_prefers_shared_memory_and_takes_tcp_from_elsewhere(prefill: Prefill) -> None:
    with closing(HandoffClient(transports=["auto"], secret=SECRET)) as client:
        assert client.fetch(prefill.ticket([1]), [1], empty_pool(), [0], BLOCK, 5.0) == "shm"
        elsewhere = {
            **prefill.server.addresses,
            "shm": {**prefill.server.addresses["shm"], "nonce": "00" * 16},
            "warp": {"drive": 9},
        }
        pool = empty_pool()
        ticket = vouch(prefill.ticket([1]), prefill.server.control, elsewhere)
        assert client.fetch(ticket, [1], pool, [0], BLOCK, 5.0) == "tcp"
        assert bytes(pool[:BLOCK]) == prefill.block(1)


def test_no_common_transport_says_why() -> None:
    with closing(Prefill.start(transports=["tcp"])) as prefill:
        with closing(HandoffClient(transports=["shm"], secret=SECRET)) as client:
            with pytest.raises(TransferError, match="shm: not offered"):
                client.fetch(prefill.ticket([1]), [1], empty_pool(), [0], BLOCK, 5.0)


@pytest.mark.parametrize(
    "change",
    [
        {"segment": "../../etc/passwd"},
        {"segment": "tercet.nobody.here"},
        {"nonce": "zz"},
        {"nonce": 5},
        {"bytes": 1},
        {"segment": None},
    ],
)
def test_a_segment_that_is_not_the_tickets(prefill: Prefill, change: dict[str, Any]) -> None:
    addresses = {"shm": {**prefill.server.addresses["shm"], **change}}
    ticket = vouch(prefill.ticket([1]), prefill.server.control, addresses)
    with closing(HandoffClient(transports=["shm"], secret=SECRET)) as client:
        with pytest.raises(TransferError, match="no transport reaches"):
            client.fetch(ticket, [1], empty_pool(), [0], BLOCK, 5.0)


def test_a_segment_that_others_may_read_is_refused(prefill: Prefill) -> None:
    path = Path("/dev/shm") / prefill.pool.segment.name
    os.chmod(path, 0o644)
    with closing(HandoffClient(transports=["shm"], secret=SECRET)) as client:
        with pytest.raises(TransferError, match="private"):
            client.fetch(prefill.ticket([1]), [1], empty_pool(), [0], BLOCK, 5.0)


def test_sixteen_fetches_at_once(prefill: Prefill, client: HandoffClient) -> None:
    pools = [empty_pool() for _ in range(16)]

    def fetch(index: int) -> None:
        for turn in range(5):
            blocks = [(index + turn + step) % 32 for step in range(8)]
            client.fetch(prefill.ticket(blocks), blocks, pools[index], blocks, BLOCK, 10.0)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(fetch, range(16)))
    for index, pool in enumerate(pools):
        for block in [(index + step) % 32 for step in range(12)]:
            assert bytes(pool[block * BLOCK : (block + 1) * BLOCK]) == prefill.block(block)
    assert len(prefill.leases) == 0
    assert len(prefill.leases.drain()) == 80
    assert prefill.server.dropped == {}


def test_a_closed_client_says_so(prefill: Prefill, client: HandoffClient) -> None:
    client.fetch(prefill.ticket([1]), [1], empty_pool(), [0], BLOCK, 5.0)
    client.close()
    with pytest.raises(TransferError, match="closed"):
        client.fetch(prefill.ticket([1]), [1], empty_pool(), [0], BLOCK, 5.0)


def test_transports_by_name() -> None:
    assert [transport.name for transport in chosen(["auto"], "127.0.0.1")] == ["shm", "tcp"]
    assert [transport.name for transport in chosen(["tcp", "auto", "tcp"], "::1")] == ["tcp", "shm"]
    for names in (["warp"], []):
        with pytest.raises(UsageError, match=r"choose auto, shm, nixl, tcp or mooncake|no transport"):
            chosen(names, "127.0.0.1")


def test_a_pool_outside_shared_memory_is_served_by_tcp_alone() -> None:
    def serve(transports: list[str]) -> HandoffServer:
        return HandoffServer(
            LeaseTable(),
            memoryview(bytearray(BLOCK)),
            BLOCK,
            engine_id="e",
            transports=transports,
            secret=SECRET,
            lease_s=LEASE_S,
            wake=lambda: None,
        )

    with closing(serve(["auto"])) as server:
        assert list(server.addresses) == ["tcp"]
    with pytest.raises(UsageError, match="shm"):
        serve(["shm"])


@pytest.mark.parametrize("host", ["::1", "0.0.0.0"])
def test_other_hosts(host: str) -> None:
    pool, leases = memoryview(bytearray(b"k" * BLOCK)), LeaseTable()
    server = HandoffServer(
        leases,
        pool,
        BLOCK,
        engine_id="e",
        transports=["tcp"],
        secret=SECRET,
        lease_s=LEASE_S,
        wake=lambda: None,
        host=host,
        advertise_host=None if host == "::1" else "127.0.0.1",
    )
    with closing(server), closing(HandoffClient(transports=["tcp"], secret=SECRET)) as client:
        ticket = make_ticket("e", server.control, server.addresses, [0])
        leases.grant(ticket.id, [0], 0.0)
        target = empty_pool(1)
        assert client.fetch(ticket, [0], target, [0], BLOCK, 5.0) == "tcp"
        assert target == pool


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        HandoffServer(
            LeaseTable(),
            memoryview(bytearray(BLOCK)),
            BLOCK,
            engine_id="e",
            transports=["tcp"],
            secret=SECRET,
            lease_s=LEASE_S,
            wake=lambda: None,
            host="192.0.2.1",
        )
