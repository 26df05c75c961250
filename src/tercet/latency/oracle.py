"""The latency oracle: what a device would need for a step."""

from __future__ import annotations

from typing import Protocol


class LatencyOracle(Protocol):
    """Predicts one device with one model. Times are in milliseconds, of the device alone (no queueing, no host)."""

    def prefill(self, batch: int, tokens: float, prefix: float) -> float:
        """Return the time of a step that computes `batch` prompts of `tokens` new tokens after `prefix` cached ones."""
        ...

    def decode(self, batch: int, context: float) -> float:
        """Return the time of a step that adds one token to `batch` sequences of `context` tokens on average."""
        ...

    def mixed(self, tokens: int, prefix: int, batch: int, context: float) -> float:
        """Return the time of a step that does both.

        It computes `tokens` prompt tokens after `prefix` cached ones, both summed over the prompts, and decodes
        `batch` sequences of `context` tokens on average.
        """
        ...

    def encode(self, images: int) -> float:
        """Return the time to encode `images` pictures."""
        ...

    def kv_bytes(self, tokens: int) -> int:
        """Return the size of the KV of `tokens` tokens."""
        ...

    def kv_capacity(self) -> int:
        """Return how many tokens of KV fit beside the weights."""
        ...
