"""What an engine process does to itself: end with its front, sit on its device's cores, give way to the router."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tercet.core.errors import UsageError

PR_SET_PDEATHSIG = 1
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Where control groups of version 2 say how much processor time a container gets: microseconds, and of how many."""
ENGINE_NICENESS = 5
"""Ranks run below router and client: a long step must not delay a byte that is ready to go."""


def end_on_sigterm(clean_up: Callable[[], None]) -> None:
    """Let SIGTERM end this process at once, even in the middle of a step; `clean_up` runs first, in another thread.

    Call it in the main thread. Python would run a handler only when the main thread comes back from the step.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    # The signal is written to the pipe by the C handler, whatever the main thread does; the Python one has no task.
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)

    def wait() -> None:
        while os.read(read_end, 1) != bytes((signal.SIGTERM,)):
            pass
        try:
            clean_up()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGTERM when the parent dies; exit at once if that has happened already.

    The kernel ties this to the parent's *thread* that started this process: it must be one that lasts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


@dataclass(frozen=True, slots=True)
class Device:
    """A parsed device name: "cpu:0", "cpu:0-3", "cpu:0+2" (cores) or "cuda:1"."""

    kind: str
    cores: tuple[int, ...]
    name: str


def parse_device(name: str) -> Device:
    """Parse a device name. Raises UsageError naming it, and for cores this machine lacks."""
    kind, _, rest = name.partition(":")
    if kind == "cuda" and (_is_number(rest) or not rest):
        return Device("cuda", (), name)
    if kind != "cpu":
        raise UsageError(f"unknown device {name!r}: write cpu:0, cpu:0-1 or cuda:0")
    available = os.sched_getaffinity(0)
    if not rest:
        return Device("cpu", tuple(sorted(available)), name)
    cores: set[int] = set()
    for part in rest.split("+"):
        low, dash, high = part.partition("-")
        if not _is_number(low) or (dash and not _is_number(high)) or int(high or low) < int(low):
            raise UsageError(f"bad cores in device {name!r}: write cpu:0, cpu:0-1 or cpu:0+2")
        cores.update(range(int(low), int(high or low) + 1))
    if missing := sorted(cores - available):
        raise UsageError(f"device {name!r}: this process may not use core {missing[0]}; it has {sorted(available)}")
    return Device("cpu", tuple(sorted(cores)), name)


def settle(device: Device) -> int:
    """Pin this process to the device's cores and lower its priority; return the number of threads to compute with."""
    if device.kind == "cpu":
        os.sched_setaffinity(0, device.cores)
    os.nice(ENGINE_NICENESS)
    threads = len(device.cores) or 1
    return min(threads, quota()) if device.name == "cpu" else threads


def quota(cpu_max: Path = CPU_MAX) -> int:
    """Return how many cores' time this container may use, at least 1; sys.maxsize without a limit.

    A container sees all cores of its machine: with a thread for each, most of them would wait for the next period.
    """
    try:
        allowed, period = cpu_max.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return sys.maxsize  # no control groups of version 2, or not here
    return sys.maxsize if allowed == "max" else max(1, -(-int(allowed) // int(period)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6
