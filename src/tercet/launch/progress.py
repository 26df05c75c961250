"""What a launcher tells while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tercet.core.errors import TercetError

State = Literal["starting", "ready", "crashed", "restarting", "failed", "stopping", "stopped", "warning"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One part ("prefill-0", "router", or "deployment" for the whole) came to a state; `detail` is for people."""

    part: str
    state: State
    detail: str = ""


OnProgress = Callable[[Progress], None]


class LaunchError(TercetError):
    """A part did not start, or ended and was not to be restarted. The message ends with its last log lines."""
