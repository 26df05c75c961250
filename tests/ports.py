"""Ports for servers that must be told theirs."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

LOWEST = 20_000
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(count: int = 1) -> int:
    """Return the first of `count` ports in a row that nobody has.

    They are below those of which the kernel gives one to whoever asks for any, or connects: until its server is up,
    nobody gets one of them by chance.
    """
    end = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 32_768
    end = max(end, LOWEST + 10_000)  # where the kernel gives those too, chance has to do
    while True:
        port = random.randrange(LOWEST, end - count)
        with ExitStack() as held:
            try:
                for each in range(port, port + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", each))
            except OSError:
                continue
            return port
