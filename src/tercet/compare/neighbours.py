"""How much of this machine other programs took while something was measured."""

from __future__ import annotations

from time import perf_counter

import psutil


class Neighbours:
    """Measures from its making on: the CPU time of everything that is not this process or its descendants."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._own = _own_cpu_s()
        self._busy = _busy_cpu_s()

    def cores(self) -> float:
        """Return the cores' worth of other programs' work since then: 0.5 is half of one core.

        Descendants that ended meanwhile count as others; none should end during a measurement.
        """
        wall = max(perf_counter() - self._started, 1e-9)
        now = _own_cpu_s()
        own = sum(now[pid] - self._own.get(pid, 0.0) for pid in now)
        return max(0.0, (_busy_cpu_s() - self._busy - own) / wall)


def _own_cpu_s() -> dict[int, float]:
    """Return the CPU seconds of this process and of each descendant, by process id."""
    me = psutil.Process()
    seconds: dict[int, float] = {}
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        seconds[process.pid] = times.user + times.system
    return seconds


def _busy_cpu_s() -> float:
    """Return the CPU seconds of all cores that were spent working since the machine's start."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))
