"""Follows a topology file while its deployment runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from tercet.core.errors import TercetError
from tercet.core.topology import Topology
from tercet.launch.source import Asked

LOOK_S = 0.5


class Reload:
    """Reads the file again once it has changed, and has stood still since the last look: editors write it in pieces."""

    def __init__(
        self, asked: Asked, become: Callable[[Topology], Awaitable[None]], refuse: Callable[[str], None]
    ) -> None:
        """`become` raises TercetError or OSError for what can't be done; `refuse` is told of it."""
        self._asked, self._become, self._refuse = asked, become, refuse
        self._seen = _stamp(asked.path)

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        last = self._seen
        while True:
            await asyncio.sleep(LOOK_S)
            stamp = _stamp(self._asked.path)
            if stamp == last != self._seen:
                self._seen = stamp
                try:
                    await self._become(self._asked.read())
                except (TercetError, OSError) as error:
                    self._refuse(f"{self._asked.path} is not followed, and nothing changed: {error}")
            last = stamp


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
