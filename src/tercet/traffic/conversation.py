"""Conversations: which tokens each turn brings, and the request body it becomes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import shake_128
from typing import Any

from tercet.core.errors import UsageError
from tercet.traffic.prompts import PromptForm, Prompts, Said
from tercet.traffic.words import text_of

FIRST_ORDINARY_TOKEN = 256
"""Byte and special tokens sit at the low ids of the usual vocabularies; prompts are drawn above them."""

MAX_TOKEN = 32_000
"""Prompts stay below this id even when the vocabulary is larger: special tokens also sit at the top."""


@dataclass(frozen=True, slots=True)
class TurnSpec:
    """One turn: so many new input tokens, exactly so many output tokens, after `think_s` seconds of silence.

    The think time runs from the end of the previous answer; turn 1's is ignored (the arrival decides).
    """

    new_input_tokens: int
    output_tokens: int
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenRange:
    """Token ids that prompts are drawn from: `low` <= id < `high`."""

    low: int = FIRST_ORDINARY_TOKEN
    high: int = MAX_TOKEN

    def __post_init__(self) -> None:
        """Refuse an empty range. Raises UsageError."""
        if not 0 <= self.low < self.high:
            raise UsageError(f"no token ids in [{self.low}, {self.high}): prompts need at least one")

    @classmethod
    def for_vocabulary(cls, size: int | None) -> TokenRange:
        """Return the ordinary tokens of a vocabulary of `size` entries (None: unknown, so the safe default)."""
        if size is None:
            return cls()
        low = FIRST_ORDINARY_TOKEN if size >= 2 * FIRST_ORDINARY_TOKEN else size // 8
        return cls(low, max(low + 1, min(MAX_TOKEN, size - size // 16)))

    def draw(self, key: str, count: int) -> list[int]:
        """Return `count` of them: equal keys, equal tokens."""
        span = self.high - self.low
        words = struct.unpack(f"<{count}I", shake_128(key.encode()).digest(4 * count))
        return [self.low + word % span for word in words]


@dataclass(frozen=True, slots=True)
class Shared:
    """So many tokens that every conversation of the run that names them has in common."""

    name: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """One user's turns. Its new tokens depend on (seed, salt, id, turn) only, so every mode sees the same ones.

    `arrival_s` is when turn 1 starts, in seconds after the run's start; turn k + 1 starts `think_s` after answer k.
    `id` goes into `X-Session-Id`; it is unique over the runs of one comparison. Turn 1 begins with the `shared` tokens,
    which its `new_input_tokens` include, and shows `pictures` (data URIs; they need the chat form).
    """

    id: str
    seed: int
    salt: str
    arrival_s: float
    turns: tuple[TurnSpec, ...]
    tokens: TokenRange = TokenRange()
    prompts: Prompts = field(default_factory=Prompts)
    shared: tuple[Shared, ...] = ()
    pictures: tuple[str, ...] = ()

    def new_tokens(self, turn: int) -> list[int]:
        """Return the token ids (in a text: the words) that turn `turn` (0 is the first) adds to the history."""
        count = self.turns[turn].new_input_tokens
        if self.prompts.form is not PromptForm.TOKENS:
            count = self.prompts.words(count, turn)
        lead: list[int] = []
        for shared in self.shared if turn == 0 else ():
            lead += self.tokens.draw(f"{self.seed}\0{self.salt}\0shared\0{shared.name}", shared.tokens)
        own = self.tokens.draw(f"{self.seed}\0{self.salt}\0{self.id}\0{turn}", max(0, count - len(lead)))
        return [*lead[:count], *own]

    def prompt(self, turn: int, answers: Sequence[Said]) -> list[int]:
        """Return a turn's whole prompt as token ids: every earlier prompt and answer in order, and the new ones."""
        if turn != len(answers):
            raise ValueError(f"turn {turn} with {len(answers)} answers before it")
        prompt: list[int] = []
        for earlier, answer in enumerate(answers):
            prompt += self.new_tokens(earlier)
            prompt += answer.token_ids
        return prompt + self.new_tokens(turn)

    def prompt_tokens(self, turn: int) -> int | None:
        """Return the length that the server must count for a turn's prompt, all earlier answers being exact.

        None where it can't be known: with pictures, and where a tokeniser sees answers as text again.
        """
        if self.prompts.form is PromptForm.TOKENS:
            earlier = sum(spec.new_input_tokens + spec.output_tokens for spec in self.turns[:turn])
            return earlier + self.turns[turn].new_input_tokens
        return None if turn or self.pictures else self.text_tokens(0)

    def text_tokens(self, turn: int) -> int:
        """Return the tokens that the turn's new text makes."""
        count = self.turns[turn].new_input_tokens
        if self.prompts.form is PromptForm.TOKENS:
            return count
        return self.prompts.tokens(self.prompts.words(count, turn), turn)

    def images(self, turn: int) -> int:
        """Return how many pictures the turn's request carries: a history keeps those of the first turn."""
        return len(self.pictures)

    def request_body(
        self, turn: int, answers: Sequence[Said], *, model: str, cache_salt: str | None = None
    ) -> dict[str, Any]:
        """Return the body of one turn, greedy and streamed; `answers` are those to the turns before it.

        `cache_salt` keeps a server that served these same tokens before (in another mode) from reusing their KV.
        """
        body = self.prompts.body(model, self.turns[turn].output_tokens, cache_salt)
        if self.prompts.form is PromptForm.CHAT:
            body["messages"] = self._messages(turn, answers)
        elif self.prompts.form is PromptForm.TEXT:
            earlier = "".join(f"{text_of(self.new_tokens(i))}{answer.text} " for i, answer in enumerate(answers))
            body["prompt"] = earlier + text_of(self.new_tokens(turn))
        else:
            body["prompt"] = self.prompt(turn, answers)
        return body

    def _messages(self, turn: int, answers: Sequence[Said]) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for i in range(turn + 1):
            text = text_of(self.new_tokens(i))
            shown = [{"type": "image_url", "image_url": {"url": uri}} for uri in self.pictures] if i == 0 else []
            content: Any = [*shown, {"type": "text", "text": text}] if shown else text
            messages.append({"role": "user", "content": content})
            if i < turn:
                messages.append({"role": "assistant", "content": answers[i].text})
        return messages

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the HTTP headers every turn carries."""
        return (("Content-Type", "application/json"), ("X-Session-Id", self.id))
