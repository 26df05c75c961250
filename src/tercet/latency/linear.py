"""The simplest oracle: a step costs a base, and so much per computed token and per token of context read."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class LinearOracle:
    """A LatencyOracle of four coefficients, in milliseconds. Rough, linear: no quadratic attention, no saturation.

    `base_ms` is a step's overhead and the reading of the weights, `token_ms` the cost of one prompt token computed,
    `context_ms` of one token of context attended to, `image_ms` of one picture encoded.
    """

    base_ms: float
    token_ms: float
    context_ms: float
    kv_token_bytes: int
    kv_tokens: int
    image_ms: float = 0.0

    def slowed(self, factor: float) -> LinearOracle:
        """Return the oracle of a device that takes `factor` times as long, with the same memory."""
        return replace(
            self,
            base_ms=self.base_ms * factor,
            token_ms=self.token_ms * factor,
            context_ms=self.context_ms * factor,
            image_ms=self.image_ms * factor,
        )

    def prefill(self, batch: int, tokens: float, prefix: float) -> float:
        """See LatencyOracle."""
        return self.base_ms + batch * (tokens * self.token_ms + prefix * self.context_ms)

    def decode(self, batch: int, context: float) -> float:
        """See LatencyOracle."""
        return self.base_ms + batch * context * self.context_ms

    def decode_run(self, batch: int, context: float, steps: int) -> float:
        """See LatencyOracle."""
        return steps * self.decode(batch, context + (steps - 1) / 2)

    def mixed(self, tokens: int, prefix: int, batch: int, context: float, prompts: int = 1) -> float:
        """See LatencyOracle."""
        return self.base_ms + tokens * self.token_ms + (prefix + batch * context) * self.context_ms

    def encode(self, images: int) -> float:
        """See LatencyOracle."""
        return images * self.image_ms

    def kv_bytes(self, tokens: int) -> int:
        """See LatencyOracle."""
        return tokens * self.kv_token_bytes

    def kv_capacity(self) -> int:
        """See LatencyOracle."""
        return self.kv_tokens
