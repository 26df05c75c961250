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
        self._sums: dict[str, list[float]] = {}  # by model: tokens, bytes

    def of(self, model: str) -> float:
        """Return the running mean of prompt tokens per byte of rendered text."""
        sums = self._sums.get(model)
        return TOKENS_PER_BYTE if sums is None else sums[0] / sums[1]

    def learn(self, facts: RequestFacts, prompt_tokens: int) -> None:
        """Take in what a prompt came to, where that tells of text: of one prompt without pictures."""
        size = facts.size
        if facts.exact or not size or facts.prompts > 1 or facts.pictures:
            return
        sums = self._sums.get(facts.model)
        if sums is None:
            self._sums[facts.model] = [prompt_tokens, size]
            return
        keep = 1.0 - size / LEARNING_BYTES if size < LEARNING_BYTES else 0.0
        sums[0] = sums[0] * keep + prompt_tokens
        sums[1] = sums[1] * keep + size
