"""How prompts are written into requests: as token ids, as text, or as a chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class PromptForm(StrEnum):
    """What a prompt is sent as: token ids or text to `/v1/completions`, messages to `/v1/chat/completions`."""

    TOKENS = "tokens"
    TEXT = "text"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Prompts:
    """The form of prompts, and what this server makes of it.

    `first_overhead` and `later_overhead` are the tokens that it adds to a first and to each later turn (a template's),
    `tokens_per_word` what its tokeniser makes of a word: with them, texts get their length in tokens. `extensions`: it
    takes fields that vLLM, SGLang and Tercet know but OpenAI doesn't (`ignore_eos`, `return_token_ids`). `exact`:
    answers are as long as asked (`ignore_eos`). `extra` goes into every body as it is.
    """

    form: PromptForm = PromptForm.TOKENS
    first_overhead: int = 0
    later_overhead: int = 0
    tokens_per_word: float = 1.0
    extensions: bool = True
    exact: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)

    def words(self, tokens: int, turn: int) -> int:
        """Return how many words make `tokens` tokens of turn `turn` (0 is the first), one at least."""
        overhead = self.later_overhead if turn else self.first_overhead
        return max(1, round((tokens - overhead) / self.tokens_per_word))

    def tokens(self, words: int, turn: int) -> int:
        """Return how many tokens `words` words of turn `turn` make."""
        return round(words * self.tokens_per_word) + (self.later_overhead if turn else self.first_overhead)

    def body(self, model: str, output_tokens: int, cache_salt: str | None) -> dict[str, Any]:
        """Return the fields that every request has, before its prompt: greedy and streamed, usage included."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.extensions:
            body |= {"ignore_eos": self.exact, "return_token_ids": True}
            if cache_salt is not None:
                body["cache_salt"] = cache_salt
        return body | dict(self.extra)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer, as a later turn's history needs it."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
