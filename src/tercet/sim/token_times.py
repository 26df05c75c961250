"""When an engine's steps ended: a token's time is that of its step."""

from __future__ import annotations

from collections.abc import Iterable

MANY = 1 << 16
"""So many times are kept before those that nobody needs any more are dropped."""


class TokenTimes:
    """The ends of one engine's steps, numbered from its start; every decoding sequence gets a token from each."""

    __slots__ = ("_base", "_limit", "_times", "_wanted")

    def __init__(self) -> None:
        self._base = 0
        self._times: list[float] = []
        self._wanted: dict[str, int] = {}
        self._limit = MANY

    def step(self, now: float) -> None:
        """Note the end of one step."""
        self._times.append(now)

    def steps(self, start: float, count: int, seconds: float) -> None:
        """Note `count` steps in a row, evenly spread."""
        each = seconds / count
        self._times.extend([start + each * i for i in range(1, count + 1)])

    def begin(self, name: str) -> None:
        """Keep what comes from now on for `name`."""
        self._wanted[name] = self._base + len(self._times)
        if len(self._times) > self._limit:
            self._drop(min(self._wanted.values()))

    def end(self, name: str, count: int) -> list[float]:
        """Return the times of the `count` tokens since `begin`, the last of them now.

        Where there were more steps (the sequence was preempted, and computed again) some in between are left out.
        """
        times = self._times[self._wanted.pop(name) - self._base :]
        spare = len(times) - count
        if spare <= 0:
            return times
        if count < 2:
            return times[-count:] if count else []
        return [times[i * (len(times) - 1) // (count - 1)] for i in range(count)]

    def forget(self, names: Iterable[str]) -> None:
        """Keep nothing for these any more."""
        for name in names:
            self._wanted.pop(name, None)

    def _drop(self, first: int) -> None:
        del self._times[: first - self._base]
        self._base = first
        self._limit = max(MANY, 2 * len(self._times))
