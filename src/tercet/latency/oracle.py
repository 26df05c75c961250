"""The latency oracle: what a device would need for a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self


class LatencyOracle(Protocol):
    """Predicts one rank (all its GPUs, when tensor parallel) with one model.

    Times are in milliseconds, of the device alone: no queueing, no host. Tokens are of one rank.
    """

    def prefill(self, batch: int, tokens: float, prefix: float) -> float:
        """Return the time of a step that computes `batch` prompts of `tokens` new tokens after `prefix` cached ones."""
        ...

    def decode(self, batch: int, context: float) -> float:
        """Return the time of a step that adds one token to `batch` sequences of `context` tokens on average."""
        ...

    def decode_run(self, batch: int, context: float, steps: int) -> float:
        """Return the time of `steps` decode steps in a row, of which the first finds `context` tokens on average."""
        ...

    def mixed(self, tokens: int, prefix: int, batch: int, context: float, prompts: int = 1) -> float:
        """Return the time of a step that does both.

        It computes `tokens` prompt tokens after `prefix` cached ones, both summed over `prompts` prompts, and decodes
        `batch` sequences of `context` tokens on average.
        """
        ...

    def encode(self, images: int) -> float:
        """Return the time to encode `images` pictures."""
        ...

    def kv_bytes(self, tokens: int) -> int:
        """Return the size of the KV of `tokens` tokens, over all GPUs of the rank."""
        ...

    def kv_capacity(self) -> int:
        """Return how many tokens of KV fit beside the weights."""
        ...

    def slowed(self, factor: float) -> Self:
        """Return the oracle of a device that takes `factor` times as long, with the same memory."""
        ...


@dataclass(frozen=True, slots=True)
class OracleSource:
    """Where an oracle's figures come from: `kind` (grid, live, measured, roofline, linear), one line, and what was
    assumed where nothing is known."""

    kind: str
    summary: str
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChosenOracle:
    """An oracle, its source, and what else is known of the device and the model.

    `link_bytes_s` is what moves KV from GPU to GPU, in one direction; `image_tokens` is what a picture becomes in the
    prompt, 0 when the model does not see.
    """

    oracle: LatencyOracle
    source: OracleSource
    link_bytes_s: float
    image_tokens: int = 0
