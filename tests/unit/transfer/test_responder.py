"""What a stranger, a replayer and a fool get from a handoff server: nothing; and it goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgpack
import pytest
import zmq

from tercet.transfer.messages import derive_key, new_nonce, open_answer, seal_answer, seal_request, unpack_body
from tercet.transfer.responder import advertised
from tests.unit.transfer.peer import SECRET, Prefill

KEY = derive_key(SECRET)


@pytest.fixture
def prefill() -> Iterator[Prefill]:
    with closing(Prefill.start()) as peer:
        yield peer


@contextmanager
def dealer(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    yield socket
    context.destroy(0)


def ask(socket: zmq.Socket[bytes], frame: bytes, timeout_ms: int = 2000) -> dict[str, Any] | None:
    socket.send(frame)
    if not socket.poll(timeout_ms):
        return None
    opened = open_answer(KEY, socket.recv_multipart()[0])
    assert opened is not None
    return unpack_body(opened[1])


def request(prefill: Prefill, op: str, ticket_id: str, **fields: Any) -> bytes:
    body = {"op": op, "ticket": ticket_id, "engine": prefill.engine_id, **fields}
    return seal_request(KEY, new_nonce(), body)


def test_a_replay_has_no_effect_and_no_answer(prefill: Prefill) -> None:
    ticket = prefill.ticket([1])
    with dealer(prefill.server.control) as socket, dealer(prefill.server.control) as eavesdropper:
        frame = request(prefill, "renew", ticket.id)
        assert ask(socket, frame) == {"done": True}
        prefill.leases.drain()
        assert ask(eavesdropper, frame, 200) is None
        assert prefill.leases.drain() == []
        assert prefill.server.dropped == {"replayed": 1}
        release = request(prefill, "release", ticket.id, accepted=True)
        assert ask(socket, release) == {"done": True}
        assert ask(eavesdropper, release) == {"done": False}
        assert ask(eavesdropper, frame) == {"done": False}


def test_garbage_is_dropped_counted_and_survived(prefill: Prefill) -> None:
    ticket = prefill.ticket([1])
    draw = random.Random(0)
    valid = request(prefill, "renew", ticket.id)
    strangers: list[list[bytes]] = [
        [b""],
        [b"", b""],
        [valid, b"more"],
        [valid[:-1]],
        [seal_answer(KEY, new_nonce(), {"op": "renew", "ticket": ticket.id, "engine": prefill.engine_id})],
        [seal_request(derive_key(b"other"), new_nonce(), {"op": "renew", "ticket": ticket.id})],
        *([draw.randbytes(draw.randrange(200))] for _ in range(200)),
    ]
    fools: list[dict[str, Any]] = [
        {},
        {"op": "renew"},
        {"op": "renew", "ticket": 5, "engine": prefill.engine_id},
        {"op": b"renew", "ticket": ticket.id, "engine": prefill.engine_id},
        {"op": "release", "ticket": ticket.id, "engine": prefill.engine_id},
        {"op": "release", "ticket": ticket.id, "engine": prefill.engine_id, "accepted": 1},
    ]
    for endpoint in (prefill.server.control, prefill.server.addresses["tcp"]["endpoint"]):
        with dealer(endpoint) as socket:
            for frames in strangers:
                socket.send_multipart(frames)
            assert ask(socket, request(prefill, "dance", ticket.id)) is not None
            assert not socket.poll(50)
    assert prefill.server.dropped == {"unauthenticated": 2 * len(strangers)}
    with dealer(prefill.server.control) as socket:
        for body in fools:
            socket.send(seal_request(KEY, new_nonce(), body))
        assert ask(socket, valid) == {"done": True}
    assert prefill.server.dropped["malformed"] == len(fools)


@pytest.mark.parametrize(
    "runs",
    [None, 5, [5], [[0]], [["a", 1]], [[0, None]]],
)
def test_malformed_reads_are_dropped(prefill: Prefill, runs: Any) -> None:
    ticket = prefill.ticket([0, 1])
    with dealer(prefill.server.addresses["tcp"]["endpoint"]) as socket:
        socket.send(request(prefill, "read", ticket.id, runs=runs))
        assert ask(socket, request(prefill, "read", ticket.id, runs=[[0, 8]])) is not None
    assert prefill.server.dropped == {"malformed": 1}


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [[0, 1]] * 100,
        [[-1, 4]],
        [[0, 0]],
        [[0, -5]],
        [[8192, 1]],
        [[4096, 4097]],
        [[32 * 4096 - 1, 2]],
        [[0, 1 << 62]],
    ],
)
def test_reads_outside_the_ticket_are_refused(prefill: Prefill, runs: Any) -> None:
    ticket = prefill.ticket([0, 1])
    with dealer(prefill.server.addresses["tcp"]["endpoint"]) as socket:
        answer = ask(socket, request(prefill, "read", ticket.id, runs=runs))
    assert answer is not None
    assert set(answer) == {"why"}


def test_a_message_over_the_limit_ends_only_its_connection(prefill: Prefill) -> None:
    ticket = prefill.ticket([1])
    with dealer(prefill.server.control) as socket:
        socket.send(bytes(8 << 20))
    with dealer(prefill.server.control) as socket:
        assert ask(socket, request(prefill, "renew", ticket.id)) == {"done": True}


def test_a_fault_of_the_engine_does_not_end_the_service(prefill: Prefill, caplog: pytest.LogCaptureFixture) -> None:
    ticket = prefill.ticket([1])

    def broken() -> None:
        raise RuntimeError("the engine's pipe is closed")

    prefill.server._wake = broken
    with dealer(prefill.server.control) as socket:
        assert ask(socket, request(prefill, "renew", ticket.id), 200) is None
        assert prefill.server.dropped == {"failed": 1}
        assert ask(socket, request(prefill, "release", "unknown", accepted=False)) == {"done": False}
    assert "the engine's pipe is closed" in caplog.text


def test_bodies_are_plain_data() -> None:
    assert unpack_body(msgpack.packb({"a": msgpack.ExtType(1, b"x")})) == {"a": msgpack.ExtType(1, b"x")}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "worker-0.example"])
def test_a_named_host_is_advertised_as_it_is(host: str) -> None:
    assert advertised(host) == host


def test_a_wildcard_is_advertised_as_an_address() -> None:
    assert advertised("0.0.0.0").count(".") == 3
    assert advertised("0.0.0.0") != "0.0.0.0"
