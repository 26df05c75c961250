"""Workers behind a DNS name: one at each of its addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from tercet.core.errors import UsageError
from tercet.http.names import Names
from tercet.router.discovery.source import DiscoveryError, Found, host_in_url, letter_of, port_of, said_of

RESOLVE_S = 5.0

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]
"""(name, port) -> addresses. Raises OSError."""


class DnsSource:
    """A headless service: `prefill=workers.example:8000`, or `...:8000#bootstrap=8998` as in a worker's URL."""

    def __init__(self, text: str, resolver: Resolve | None = None) -> None:
        """Raises UsageError for a text that is not ROLE=NAME:PORT."""
        role, equals, rest = text.partition("=")
        rest, hash_, said = rest.partition("#")
        host, colon, port = rest.rpartition(":")
        if not equals or not colon or not host:
            raise UsageError(f"--discover-dns {text!r}: write ROLE=NAME:PORT")
        self.name = f"DNS {text}"
        self._host, self._letter = host, letter_of(role, f"--discover-dns {text}")
        self._port, self._resolver = port_of(port, f"--discover-dns {text}"), resolver or Names().addresses
        self._said = said_of(hash_ + said, f"--discover-dns {text}")

    async def look(self) -> Found:
        """Return a worker for each address. Raises DiscoveryError."""
        try:
            async with asyncio.timeout(RESOLVE_S):
                addresses = await self._resolver(self._host, self._port)
        except (OSError, TimeoutError) as error:
            raise DiscoveryError(f"can't resolve {self._host}: {error or 'no answer in time'}") from error
        return Found({f"http://{host_in_url(a)}:{self._port}{self._said}": self._letter for a in addresses})

    async def close(self) -> None:
        """Nothing is open."""
