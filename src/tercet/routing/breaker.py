"""Circuit breakers: who failed so often in a row that no request is sent there until a probe succeeded."""

from __future__ import annotations

from dataclasses import dataclass

Key = str | tuple[str, str]
"""A rank's address, or those of a pair: (prefill, decode)."""

CLOSED, HALF_OPEN, OPEN = 0, 1, 2


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    state: int = CLOSED
    pause_s: float = 0.0
    probe_at: float = 0.0


class Breakers:
    """One breaker per rank and per pair. Closed: requests flow, `limit` failures in a row open it. Open: nothing is
    sent for a pause. Then half-open: one probe, a real inference, closes it or begins a pause twice as long.
    """

    def __init__(self, limit: int, pause_s: float, max_pause_s: float) -> None:
        self._limit, self._pause_s, self._max_pause_s = limit, pause_s, max_pause_s
        self._breakers: dict[Key, _Breaker] = {}

    def set(self, limit: int, pause_s: float, max_pause_s: float) -> None:
        """Count and wait so from now on; pauses that began end as they were to."""
        self._limit, self._pause_s, self._max_pause_s = limit, pause_s, max_pause_s

    def served(self, key: Key) -> None:
        """A request was served here: it counts anew. Does not close a breaker: that answer was asked for before."""
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.state == CLOSED:
            del self._breakers[key]

    def failed(self, key: Key, now: float) -> bool:
        """A request failed here. Return True when that opens the breaker."""
        breaker = self._breakers.setdefault(key, _Breaker())
        breaker.failures += 1
        if breaker.state != CLOSED or breaker.failures < self._limit:
            return False
        breaker.state, breaker.pause_s = OPEN, self._pause_s
        breaker.probe_at = now + breaker.pause_s
        return True

    def may_probe(self, key: Key, now: float) -> bool:
        """Return whether a probe may be sent now; it makes an open breaker half-open. True where none is open."""
        breaker = self._breakers.get(key)
        if breaker is None or breaker.state == CLOSED:
            return True
        if breaker.state == OPEN and now >= breaker.probe_at:
            breaker.state = HALF_OPEN
        return breaker.state == HALF_OPEN

    def probe_failed(self, key: Key, now: float) -> None:
        """The probe of a half-open breaker failed: it is open again, for longer."""
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.state == HALF_OPEN:
            breaker.state = OPEN
            breaker.pause_s = min(2 * breaker.pause_s, self._max_pause_s)
            breaker.probe_at = now + breaker.pause_s

    def close(self, key: Key) -> None:
        """A probe succeeded."""
        self._breakers.pop(key, None)

    def forget(self, address: str) -> None:
        """Another engine answers at this address, or none any more: nothing is held against it, nor against its
        pairs."""
        for key in [key for key in self._breakers if key == address or (isinstance(key, tuple) and address in key)]:
            del self._breakers[key]

    def state(self, key: Key) -> int:
        """Return CLOSED, HALF_OPEN or OPEN."""
        breaker = self._breakers.get(key)
        return CLOSED if breaker is None else breaker.state

    def troubled(self) -> list[tuple[Key, int]]:
        """Return (key, state) of those that are not closed."""
        return [(key, breaker.state) for key, breaker in self._breakers.items() if breaker.state != CLOSED]
