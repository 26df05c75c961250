"""How many tokens a model makes of a byte of text, learnt from the usage of answers."""

from __future__ import annotations

from tercet.routing.facts import RequestFacts

TOKENS_PER_BYTE = 0.25
"""What a model is believed to make of text before its first usage is known."""
LEARNING_BYTES = 64 * 1024
"""The running mean of tokens per byte forgets about so many bytes ago."""


class TextDensity:
    """Running means by model."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def of(self, model: str) -> float:
        """Return the running mean of prompt tokens per byte of rendered text."""
        tokens, size = self._sums.get(model, (0.0, 0.0))
        return tokens / size if size else TOKENS_PER_BYTE

    def learn(self, facts: RequestFacts, prompt_tokens: int) -> None:
        """Take in what a prompt came to, where that tells of text: of one prompt without pictures."""
        if facts.exact or not facts.size or facts.prompts > 1 or facts.pictures:
            return
        tokens, size = self._sums.get(facts.model, (0.0, 0.0))
        keep = max(0.0, 1.0 - facts.size / LEARNING_BYTES)
        self._sums[facts.model] = (tokens * keep + prompt_tokens, size * keep + facts.size)
