"""How long an engine computed, and for which stage."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.core.stage import Stage
from tercet.engine.sequence import Chunk


class BusyTimes:
    """Sums up the seconds of steps by stage. A step that does both is shared out by the tokens it computed."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = {str(stage): 0.0 for stage in Stage}

    def encoded(self, seconds: float) -> None:
        """Count one forward of the encoder."""
        self.seconds[Stage.ENCODE] += seconds

    def add(self, chunks: Sequence[Chunk], seconds: float) -> None:
        """Count one step."""
        total = sum(chunk.length for chunk in chunks)
        prompt = sum(
            max(0, min(chunk.start + chunk.length, chunk.sequence.prompt_len) - chunk.start) for chunk in chunks
        )
        self.seconds[Stage.PREFILL] += seconds * prompt / total
        self.seconds[Stage.DECODE] += seconds * (total - prompt) / total
