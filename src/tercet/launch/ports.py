"""Ports: found free, kept for the whole life of a deployment, and named when somebody else has them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil

from tercet.core.errors import UsageError
from tercet.core.topology import Topology

SEARCH = 200
"""How many ports after the preferred one are tried."""


class PortReservation:
    """Sockets bound but not listening, one per port.

    Linux lets a server with SO_REUSEADDR (asyncio's default) listen on such a port, and lets nobody else have it: not
    another launcher looking for a free port, not an outgoing connection. So a crashed worker finds its port again.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def take(self, host: str, port: int, part: str, setting: str) -> int:
        """Reserve exactly this port for `part`. Raises UsageError: who has it, and which setting chooses another."""
        if port in self.numbers:  # bind would not mind: neither listens yet
            raise UsageError(
                f"port {port} ({part}) is another part's of this deployment already: choose another with {setting}"
            )
        held = _socket(host)
        # Connections of the last server may still linger on the port; a server may start there all the same.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
        except OSError as error:
            held.close()
            if error.errno == errno.EADDRINUSE:
                free = self._peek(host, port + 1)
                raise UsageError(
                    f"port {port} ({part}) is in use{_owner(port)}: choose another with {setting} {free}"
                ) from error
            raise UsageError(f"cannot listen on {host}:{port} ({part}): {error.strerror}") from error
        self._sockets.append(held)
        return int(held.getsockname()[1])

    def find(self, host: str, preferred: int) -> int:
        """Reserve the first free port from `preferred` on; any one when `preferred` is 0 or all near it are taken."""
        for port in (*range(preferred, min(preferred + SEARCH, 65536)), 0) if preferred else (0,):
            held = _socket(host)
            try:
                held.bind((host, port))
            except OSError as error:
                held.close()
                if error.errno != errno.EADDRINUSE and port:
                    raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error
                continue
            # Only now: with the option set before, bind would take a port that another launcher has reserved.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sockets.append(held)
            return int(held.getsockname()[1])
        raise UsageError(f"no free port on {host}")

    def find_run(self, host: str, count: int) -> tuple[int, ...]:
        """Reserve `count` free ports in a row. Raises UsageError when there are none."""
        for _ in range(SEARCH):
            ports = [self.find(host, 0)]
            while len(ports) < count:
                held = len(self._sockets)
                if ports[-1] < 65535 and self.find(host, ports[-1] + 1) == ports[-1] + 1:
                    ports.append(ports[-1] + 1)
                    continue
                for stray in self._sockets[len(self._sockets) - len(ports) :]:
                    stray.close()
                del self._sockets[held - len(ports) :]
                break
            else:
                return tuple(ports)
        raise UsageError(f"no {count} free ports in a row on {host}")

    def _peek(self, host: str, preferred: int) -> int:
        other = PortReservation()
        try:
            return other.find(host, preferred)
        finally:
            other.close()

    @property
    def numbers(self) -> set[int]:
        """The ports that are held."""
        return {int(held.getsockname()[1]) for held in self._sockets}

    def give_back(self, ports: Iterable[int]) -> None:
        """Give some ports back."""
        gone = set(ports)
        for held in [held for held in self._sockets if held.getsockname()[1] in gone]:
            self._sockets.remove(held)
            held.close()

    @contextmanager
    def kept_if_all_is_well(self) -> Iterator[None]:
        """Give back what is reserved within, if that ends with an exception."""
        before = self.numbers
        try:
            yield
        except BaseException:
            self.give_back(self.numbers - before)
            raise

    def close(self) -> None:
        """Give the ports back."""
        for held in self._sockets:
            held.close()
        self._sockets.clear()


def ports_of(topology: Topology) -> dict[int, str]:
    """Return the ports that are decided, with whose they are."""
    ports = {topology.router.port: "router"} | {worker.port: worker.name for worker in topology.workers}
    return {port: part for port, part in ports.items() if port}


def check_free(host: str, port: int, part: str, setting: str) -> None:
    """Raise the UsageError that `take` would. Port 0 is always free."""
    if port:
        reservation = PortReservation()
        reservation.take(host, port, part, setting)
        reservation.close()


def _socket(host: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (socket.gaierror, UnicodeError) as error:  # the second of what can't be a name at all
        why = getattr(error, "strerror", None) or "no name can be such"
        raise UsageError(f"--host {host!r} is no address of this machine: {why}") from error
    return socket.socket(family, socket.SOCK_STREAM)


def _owner(port: int) -> str:
    """Return " by NAME (process N)" when this user may know."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        listening = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
        if listening and connection.pid:
            try:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                return ""
    return ""
