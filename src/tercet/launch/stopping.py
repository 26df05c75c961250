"""Ends a deployment that another process launched."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tercet.launch.state import RunState, alive

POLL_S = 0.05
KILL_TIMEOUT_S = 15.0


def stop_deployment(root: Path, state: RunState, timeout_s: float) -> bool:
    """Ask its launcher to stop and wait until it is gone; kill it after `timeout_s`. False when it had to be killed.

    A killed launcher takes everything with it: the kernel kills its children, its keeper the rest.
    """
    if _signal(root, state, signal.SIGTERM, timeout_s):
        return True
    _signal(root, state, signal.SIGKILL, KILL_TIMEOUT_S)
    return False


def _signal(root: Path, state: RunState, number: signal.Signals, timeout_s: float) -> bool:
    # The launcher holds its folder's lock as long as it lives, so while `alive` says so the process id is its.
    deadline = time.monotonic() + timeout_s
    if alive(root, state):
        try:
            os.kill(state.pid, number)
        except ProcessLookupError:
            return True
    while alive(root, state):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
