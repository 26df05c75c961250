"""What a launcher tells while it works."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
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


def heard_or_not(on_progress: OnProgress) -> OnProgress:
    """Return what tells as `on_progress` does, and goes on where nobody can be told: a terminal that was closed
    or a full disk must not keep a crashed part from its next start, nor an end from being orderly."""

    def tell(progress: Progress) -> None:
        with suppress(OSError):
            on_progress(progress)

    return tell


class LaunchError(TercetError):
    """A part did not start, or ended and was not to be restarted. The message ends with its last log lines."""
