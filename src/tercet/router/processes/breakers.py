"""Circuit breakers that several processes share: failures count wherever they happen, probes close for all."""

from __future__ import annotations

from collections.abc import Callable

from tercet.routing.breaker import CLOSED, Breakers, Key

TellFailure = Callable[[bool, Key], None]
"""Told that a request failed (true), or was served (false) after some that failed."""


class MemberBreakers(Breakers):
    """In a process that serves requests."""

    def __init__(self, limit: int, pause_s: float, max_pause_s: float) -> None:
        super().__init__(limit, pause_s, max_pause_s)
        self.tell: TellFailure = lambda failed, key: None

    def served(self, key: Key) -> None:
        """A request was served here: told only where one failed before."""
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.state == CLOSED:
            super().served(key)
            self.tell(False, key)

    def failed(self, key: Key, now: float) -> bool:
        """A request failed here. Return True when that opens the breaker."""
        self.tell(True, key)
        return super().failed(key, now)

    def told(self, failed: bool, key: Key, now: float) -> bool:
        """A request failed, or was served, in another process. Return True when that opens the breaker."""
        if failed:
            return Breakers.failed(self, key, now)
        Breakers.served(self, key)
        return False


class MainBreakers(MemberBreakers):
    """In the main process, which probes: what closes a breaker is told by `closed`."""

    def __init__(self, limit: int, pause_s: float, max_pause_s: float) -> None:
        super().__init__(limit, pause_s, max_pause_s)
        self.closed: Callable[[Key], None] = lambda key: None
        self.forgot: Callable[[str], None] = lambda address: None

    def close(self, key: Key) -> None:
        """A probe succeeded."""
        super().close(key)
        self.closed(key)

    def forget(self, address: str) -> None:
        """Another engine answers there, or none any more."""
        super().forget(address)
        self.forgot(address)
