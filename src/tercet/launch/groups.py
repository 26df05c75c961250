"""Process groups: who is still in one, and how to end it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path


def members(group: int) -> list[int]:
    """Return the ids of the group's living processes.

    A zombie is dead (nobody may be there to reap it), but for threads that the kernel is still tearing down: they hold
    its memory and its locks.
    """
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The command's name may hold spaces and parentheses; the fields after it don't.
        state, _parent, pgrp = stat.rpartition(")")[2].split()[:3]
        if int(pgrp) == group and (state not in "ZX" or _threads(entry) > 1):
            found.append(int(entry.name))
    return found


def _threads(process: Path) -> int:
    try:
        return len(list((process / "task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kill_group(group: int, number: signal.Signals) -> bool:
    """Signal every process of the group; False when there is none left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def kill_groups(groups: Iterable[int], timeout_s: float) -> list[int]:
    """Kill the groups and wait until their processes are gone; return those that are not after `timeout_s`."""
    left = [group for group in groups if kill_group(group, signal.SIGKILL)]
    deadline = time.monotonic() + timeout_s
    while (left := [group for group in left if members(group)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left
