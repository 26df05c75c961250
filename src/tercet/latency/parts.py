"""An oracle made of a step's parts: what depends on computed tokens, on sequences that sample, and attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol


class StepParts(Protocol):
    """The parts of a step, which add up, in milliseconds. Counts below one are never asked for."""

    def tokens(self, count: int) -> float:
        """Everything but attention and logits of a step that computes `count` tokens, prompts' and decodes' alike."""
        ...

    def logits(self, sequences: int) -> float:
        """The logits of so many sequences."""
        ...

    def prompt_attention(self, batch: int, tokens: float, prefix: float) -> float:
        """Attention of `batch` prompts of `tokens` new tokens after `prefix` cached ones."""
        ...

    def decode_attention(self, batch: int, context: float) -> float:
        """Attention of one token of each of `batch` sequences of `context` tokens."""
        ...

    def decode_attention_run(self, batch: int, context: float, steps: int) -> float:
        """The sum of `steps` of those, over contexts that grow by one each."""
        ...


@dataclass(frozen=True, slots=True)
class PartsOracle:
    """A LatencyOracle over StepParts. `image_ms[n]` encodes n pictures; beyond, time grows by the last step."""

    parts: StepParts
    kv_token_bytes: int
    kv_tokens: int
    image_ms: tuple[float, ...] = (0.0,)
    factor: float = 1.0

    def slowed(self, factor: float) -> PartsOracle:
        """See LatencyOracle."""
        return replace(self, factor=self.factor * factor)

    def seeing(self, image_ms: tuple[float, ...]) -> PartsOracle:
        """Return the oracle of a model that encodes pictures in so many milliseconds."""
        return replace(self, image_ms=image_ms)

    def prefill(self, batch: int, tokens: float, prefix: float) -> float:
        """See LatencyOracle."""
        parts = self.parts
        computed = parts.tokens(int(batch * tokens)) + parts.logits(batch)
        return self.factor * (computed + parts.prompt_attention(batch, tokens, prefix))

    def decode(self, batch: int, context: float) -> float:
        """See LatencyOracle."""
        parts = self.parts
        return self.factor * (parts.tokens(batch) + parts.logits(batch) + parts.decode_attention(batch, context))

    def decode_run(self, batch: int, context: float, steps: int) -> float:
        """See LatencyOracle."""
        parts = self.parts
        each = parts.tokens(batch) + parts.logits(batch)
        return self.factor * (steps * each + parts.decode_attention_run(batch, context, steps))

    def mixed(self, tokens: int, prefix: int, batch: int, context: float, prompts: int = 1) -> float:
        """See LatencyOracle."""
        parts = self.parts
        total = parts.tokens(tokens + batch) + parts.logits(batch + prompts)
        total += parts.prompt_attention(prompts, tokens / prompts, prefix / prompts)
        if batch:
            total += parts.decode_attention(batch, context)
        return self.factor * total

    def encode(self, images: int) -> float:
        """See LatencyOracle."""
        table = self.image_ms
        last = len(table) - 1
        if images <= last:
            return self.factor * table[images]
        growth = table[last] - table[last - 1] if last else 0.0
        return self.factor * (table[last] + (images - last) * growth)

    def kv_bytes(self, tokens: int) -> int:
        """See LatencyOracle."""
        return tokens * self.kv_token_bytes

    def kv_capacity(self) -> int:
        """See LatencyOracle."""
        return self.kv_tokens
