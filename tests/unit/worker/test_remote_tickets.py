"""Against a real handoff server: fetches, renewals and releases happen beside the step loop, and in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tercet.core.sampling import SampledToken, SamplingParams
from tercet.core.ticket import Ticket
from tercet.engine.sequence import Fetch, Sequence, State
from tercet.transfer.client import HandoffClient
from tercet.transfer.leases import LeaseTable
from tercet.transfer.server import HandoffServer
from tercet.worker.lease_keeper import LeaseKeeper
from tercet.worker.remote_tickets import Fetched, RemoteTickets

SECRET = b"s" * 32
BLOCK = 64
BLOCKS = 8


class Peer:
    """A prefill side: a pool, leases and the server of both."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.pool = bytearray(b"\7" * BLOCK * BLOCKS)
        self.leases = LeaseTable()
        self.server = HandoffServer(
            self.leases,
            memoryview(self.pool),
            BLOCK,
            engine_id="p",
            transports=("tcp",),
            secret=SECRET,
            lease_s=lease_s,
            wake=lambda: None,
        )

    def ticket(self, name: str, blocks: tuple[int, ...] = (1, 2)) -> Ticket:
        self.leases.grant(name, blocks, time.monotonic() + self.lease_s)
        return Ticket(
            id=name,
            engine_id="p",
            rank=0,
            fingerprint="f",
            block_size=16,
            token_ids=tuple(range(16 * len(blocks))),
            block_ids=blocks,
            first=SampledToken(1),
            seed=0,
            control=self.server.control,
            addresses=self.server.addresses,
            lease_s=self.lease_s,
            expires_at=0.0,
        )


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer(lease_s=0.3)
    yield peer
    peer.server.close()


@contextmanager
def reader(pool: bytearray) -> Iterator[tuple[RemoteTickets, threading.Event]]:
    woken = threading.Event()
    client = HandoffClient(transports=("tcp",), secret=SECRET)
    keeper = LeaseKeeper(client)
    remote = RemoteTickets(client, keeper, memoryview(pool), BLOCK, woken.set)
    try:
        yield remote, woken
    finally:
        remote.close()
        keeper.close()
        client.close()


def sequence_of(ticket: Ticket) -> Sequence:
    tokens = [*ticket.token_ids, ticket.first.token]
    sampling = SamplingParams(max_tokens=4)
    return Sequence("s", tokens, len(ticket.token_ids), sampling, 0.0, b"", ticket=ticket)


def until(check: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def pace(leases: LeaseTable, *names: str) -> bool:
    """Return whether each ticket is renewed at least four times in 0.9 s, every third of its 0.3 s: whoever renews as
    often does so in one of ten tries, however busy the machine is."""
    for _ in range(10):
        seen, ends = dict.fromkeys(names, 0), time.monotonic() + 0.9
        renewals(leases)
        while time.monotonic() < ends:
            for name in renewals(leases):
                seen[name] += 1
            time.sleep(0.02)
        if min(seen.values()) >= 4:
            return True
    return False


def renewals(leases: LeaseTable) -> list[str]:
    return [event.ticket_id for event in leases.drain() if event.until is not None]


def test_blocks_are_fetched_and_the_lease_ends(peer: Peer) -> None:
    pool, ticket = bytearray(BLOCK * BLOCKS), peer.ticket("t")
    with reader(pool) as (remote, woken):
        remote.keep("s", ticket)
        remote.fetch(Fetch(sequence_of(ticket), (1, 2), (5, 6)))
        assert woken.wait(30) and remote.fetched() == [Fetched("s", None)] and remote.fetched() == []
        assert pool[5 * BLOCK : 7 * BLOCK] == b"\7" * 2 * BLOCK and pool[:BLOCK] == bytes(BLOCK)
        assert len(peer.leases) == 0
        time.sleep(0.4)
        assert renewals(peer.leases) == []


def test_a_waiting_ticket_is_renewed_until_it_is_dropped(peer: Peer) -> None:
    with reader(bytearray(BLOCK * BLOCKS)) as (remote, _):
        for name in ("a", "b"):
            remote.keep(name, peer.ticket(name))
        assert pace(peer.leases, "a", "b")
        remote.drop("a")
        until(lambda: len(peer.leases) == 1)
        (event,) = [event for event in peer.leases.drain() if event.until is None]
        assert (event.ticket_id, event.accepted) == ("a", False)
        remote.drop("unknown")


def test_a_lease_that_is_over_is_not_asked_for_again(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ticket = peer.ticket("t")
    peer.leases.revoke("t")
    with reader(bytearray(BLOCK * BLOCKS)) as (remote, woken):
        remote.keep("s", ticket)
        until(lambda: "ended before" in caplog.text)
        time.sleep(0.3)
        assert caplog.text.count("ended before its blocks were read") == 1
        remote.fetch(Fetch(sequence_of(ticket), (1, 2), (5, 6)))
        assert woken.wait(30)
        (fetched,) = remote.fetched()
        assert fetched.why is not None


def test_a_fetch_whose_client_left_does_not_copy(peer: Peer) -> None:
    pool, ticket = bytearray(BLOCK * BLOCKS), peer.ticket("t")
    with reader(pool) as (remote, woken):
        sequence = sequence_of(ticket)
        sequence.state = State.DONE
        remote.keep("s", ticket)
        remote.fetch(Fetch(sequence, (1, 2), (5, 6)))
        assert woken.wait(30)
        assert remote.fetched() == [Fetched("s", "its client left")]
        assert pool == bytes(BLOCK * BLOCKS)
        until(lambda: len(peer.leases) == 0)


def test_a_dead_peer_does_not_cost_the_others_their_leases(peer: Peer) -> None:
    dead = Peer(lease_s=0.3)
    gone = [dead.ticket(f"d{i}") for i in range(20)]
    dead.server.close()
    with reader(bytearray(BLOCK * BLOCKS)) as (remote, _):
        for ticket in gone:
            remote.keep(ticket.id, ticket)
        remote.keep("s", peer.ticket("alive"))
        assert pace(peer.leases, "alive")
        for ticket in gone:
            remote.drop(ticket.id)


def test_closing_does_not_wait() -> None:
    peer = Peer(lease_s=30)
    ticket = peer.ticket("t")
    peer.server.close()
    with reader(bytearray(BLOCK * BLOCKS)) as (remote, _):
        remote.keep("s", ticket)
        remote.fetch(Fetch(sequence_of(ticket), (1, 2), (5, 6)))
        started = time.monotonic()
    assert time.monotonic() - started < 10, "and not the lease of 30 s"
