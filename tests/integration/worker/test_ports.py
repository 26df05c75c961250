"""Every port that a worker opens, asked by one who does not know the topology's secret."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest
import zmq

from tercet.core.secret import key_of_workers
from tercet.transfer.messages import derive_key, new_nonce, seal_request
from tercet.worker.endpoints import METHODS
from tests.integration.worker.processes import SECRET, TINY, Worker, launch, stop_all, topology, wait_ready
from tests.unit.transfer.transports import usable

OPEN = {"/health", "/ready", "/metrics"}
TRANSPORTS = ("tcp", "nixl", "mooncake")
OWN_PORTS = {"tcp": 2, "nixl": 1, "mooncake": 1}
"""Those of ZeroMQ: the control of handoffs, and `tcp`'s blocks."""
LIBRARYS_ADDRESSES: dict[str, set[str]] = {"tcp": set(), "nixl": {"127.0.0.1"}, "mooncake": {"0.0.0.0", "::"}}
"""Where those of the libraries are, who ask nobody for a secret: docs/security.md names them."""

pytestmark = pytest.mark.slow
Fleet = dict[str, Worker]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    logs = tmp_path_factory.mktemp("ports")
    started: Fleet = {}
    try:
        for name in TRANSPORTS:
            arguments = ("--transport", name, "--topology-id", topology(f"ports-{name}"), "--require-secret")
            log = logs / f"{name}.log"
            started[name] = launch(log, "--name", name, *arguments, *TINY, "--engine", "virtual", "--gpu", "h100")
        yield started
    finally:
        stop_all(started.values())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stranger_gets_nothing_at_any_port_of_ours(workers: Fleet, transport: str) -> None:
    running = wait_ready(workers[usable(transport)])
    http = int(running.url.rpartition(":")[2])
    ports = {port: host for host, port in listening(running.process.pid)}
    assert ports.pop(http) == "127.0.0.1"
    ours = [port for port in ports if speaks_zeromq(port)]
    assert len(ours) == OWN_PORTS[transport]
    assert {ports[port] for port in ours} == {"127.0.0.1"}
    assert {host for port, host in ports.items() if port not in ours} <= LIBRARYS_ADDRESSES[transport]
    for port in ours:
        assert answers(port) == []
    refuses_strangers(running)


def refuses_strangers(running: Worker) -> None:
    for path, method in METHODS.items():
        body = None if method == "GET" else b"{}"
        for headers in ({}, {"Authorization": f"Bearer {SECRET}"}, {"Authorization": "Bearer tw-"}):
            assert running.call(path, body, **headers).status == (200 if path in OPEN else 401), path
    key = key_of_workers(bytes.fromhex(SECRET))
    assert running.call("/v1/models", Authorization=f"Bearer {key}").status == 200


def listening(pid: int) -> list[tuple[str, int]]:
    """Return address and port of every socket of a process and its children that waits for others, UDP included."""
    found = []
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                found.append((str(connection.laddr.ip), int(connection.laddr.port)))
    return found


def speaks_zeromq(port: int) -> bool:
    """True when the port begins with ZeroMQ's greeting."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(0.3)
        try:
            return connection.recv(1) == b"\xff"
        except (TimeoutError, ConnectionError):
            return False


def answers(port: int) -> list[list[bytes]]:
    """Return what the port answers to requests that are not of this topology."""
    body = {"op": "renew", "ticket": "t", "engine": "e"}
    other = seal_request(derive_key(b"another secret" * 3), new_nonce(), body)
    got = []
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with closing(context.socket(zmq.DEALER)) as stranger:
        stranger.linger = 0
        stranger.connect(f"tcp://127.0.0.1:{port}")
        for frame in (other, b"", b"{}", other[:-1], b"\0" * 200):
            stranger.send(frame)
        while stranger.poll(300):
            got.append(stranger.recv_multipart())
    context.term()
    return got
