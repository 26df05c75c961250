from __future__ import annotations

import asyncio
import socket

import pytest
from tests.ports import free_port

from tercet.core.errors import UsageError
from tercet.launch.ports import PortReservation, check_free


async def listen(port: int) -> asyncio.Server:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", port)


async def test_a_server_can_listen_on_a_reserved_port_again_and_again() -> None:
    reservation = PortReservation()
    port = reservation.find("127.0.0.1", 0)
    for _ in range(2):
        server = await listen(port)
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        server.close()
        await server.wait_closed()
    reservation.close()


def test_a_reserved_port_is_not_found_by_another() -> None:
    one, other = PortReservation(), PortReservation()
    port = one.find("127.0.0.1", 0)
    assert other.find("127.0.0.1", port) > port
    one.close()
    other.close()


async def test_a_busy_port_is_refused_with_its_owner_and_a_way_out() -> None:
    server = await listen(0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(
        UsageError, match=rf"port {port} \(decode-0\) is in use by \S+ \(process \d+\): choose .* --x \d+"
    ):
        PortReservation().take("127.0.0.1", port, "decode-0", "--x")
    with pytest.raises(UsageError, match="is in use"):
        check_free("127.0.0.1", port, "router", "--port")
    assert PortReservation().find("127.0.0.1", port) != port
    server.close()
    check_free("127.0.0.1", 0, "router", "--port")


def test_a_lingering_connection_does_not_make_a_port_busy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the server closes first: its side lingers in TIME_WAIT
    check_free("127.0.0.1", port, "router", "--port")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("256.1.1.1", "is no address"),
        ("192.0.2.1", "cannot listen on 192.0.2.1"),
        ("a..b", "'a..b' is no address of this machine: no name can be such"),
    ],
)
def test_an_address_that_is_not_ours(host: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PortReservation().take(host, 8000, "router", "--port")
    with pytest.raises(UsageError, match=message):
        PortReservation().find(host, 8000)


def test_a_port_is_one_part_s_alone() -> None:
    reservation, port = PortReservation(), free_port()
    reservation.take("127.0.0.1", port, "router", "--port")
    with pytest.raises(UsageError, match=rf"port {port} \(worker-0\) is another part's of this deployment .* with --x"):
        reservation.take("127.0.0.1", port, "worker-0", "--x")
    reservation.close()
