"""Addresses of names, by the system's resolver, which blocks: a name whose servers say nothing, for half a minute."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Look = Callable[[str, int], list[str]]
"""(name, port) -> addresses; may block. Raises OSError and UnicodeError."""
_Asked = tuple[str, int]


def look_up(name: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_address(host: str) -> bool:
    """Return whether there is nothing to look up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return True
    return False


class Names:
    """Looks each name up in a thread of its own: an event loop has few (uvloop lets two ask at a time), and names
    that nobody answers for would keep them from all others. Who asks for one that is being looked up already waits for
    the same answer: a name keeps one thread at most. Nothing is remembered."""

    def __init__(self, look: Look = look_up) -> None:
        self._look = look
        self._under_way: dict[_Asked, asyncio.Future[list[str]]] = {}

    async def addresses(self, name: str, port: int) -> list[str]:
        """Return a name's addresses. Raises OSError, and UnicodeError for a name that DNS can't hold."""
        asked = (name, port)
        answer = self._under_way.get(asked)
        if answer is None:
            loop = asyncio.get_running_loop()
            answer = loop.create_future()
            thread = threading.Thread(target=self._ask, args=(asked, answer, loop), name="resolver", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise OSError(f"{name} can't be looked up: {error}") from error
            self._under_way[asked] = answer
        return await asyncio.shield(answer)

    def _ask(self, asked: _Asked, answer: asyncio.Future[list[str]], loop: asyncio.AbstractEventLoop) -> None:
        found: list[str] | Exception
        try:
            found = self._look(*asked)
        except (OSError, UnicodeError) as error:
            found = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._tell, asked, answer, found)

    def _tell(self, asked: _Asked, answer: asyncio.Future[list[str]], found: list[str] | Exception) -> None:
        del self._under_way[asked]
        if answer.cancelled():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
            answer.exception()  # who asked may not wait any more
        else:
            answer.set_result(found)
