"""What lies between ranks: links of so many bytes a second, and places for handoffs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Network:
    """Every rank has one way out and one way in. A transfer takes both while its bytes go; the next one waits."""

    __slots__ = ("_in", "_out", "bytes_s", "moved", "waited_s")

    def __init__(self, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self.moved = 0
        self.waited_s = 0.0
        self._out: dict[str, float] = {}
        self._in: dict[str, float] = {}

    def send_s(self, now: float, sender: str, receiver: str, nbytes: int) -> float:
        """Return how long a transfer that could begin now takes, and take the ways for it."""
        begin = max(now, self._out.get(sender, 0.0), self._in.get(receiver, 0.0))
        end = begin + nbytes / self.bytes_s
        self._out[sender] = self._in[receiver] = end
        self.moved += nbytes
        self.waited_s += begin - now
        return end - now


class Places:
    """Bounds the unaccepted handoffs of each decode rank, first come, first served: the router's `Handoffs` in virtual
    time."""

    __slots__ = ("_limit", "_taken", "_waiting")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def enter(self, address: str, go: Callable[[], None]) -> None:
        """Call `go` as soon as there is a place."""
        taken = self._taken.get(address, 0)
        if taken < self._limit:
            self._taken[address] = taken + 1
            go()
        else:
            self._waiting.setdefault(address, deque()).append(go)

    def leave(self, address: str) -> None:
        """Give a place up: to who waits the longest, else back."""
        waiting = self._waiting.get(address)
        if waiting:
            waiting.popleft()()
        else:
            self._taken[address] -= 1
