"""Conversations: which tokens each turn brings, and the request body it becomes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import shake_128
from typing import Any

from tercet.core.errors import UsageError

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


@dataclass(frozen=True, slots=True)
class Conversation:
    """One user's turns. Its new tokens depend on (seed, salt, id, turn) only, so every mode sees the same ones.

    `arrival_s` is when turn 1 starts, in seconds after the run's start; turn k + 1 starts `think_s` after answer k.
    `id` goes into `X-Session-Id`; it is unique over the runs of one comparison.
    """

    id: str
    seed: int
    salt: str
    arrival_s: float
    turns: tuple[TurnSpec, ...]
    tokens: TokenRange = TokenRange()

    def new_tokens(self, turn: int) -> list[int]:
        """Return the token ids that turn `turn` (0 is the first) adds to the history."""
        count = self.turns[turn].new_input_tokens
        key = f"{self.seed}\0{self.salt}\0{self.id}\0{turn}".encode()
        span = self.tokens.high - self.tokens.low
        return [self.tokens.low + word % span for word in struct.unpack(f"<{count}I", shake_128(key).digest(4 * count))]

    def prompt(self, turn: int, history: Sequence[int]) -> list[int]:
        """Return the whole prompt of a turn: `history` is every earlier prompt and output token, in order."""
        if (turn == 0) != (not history):
            raise ValueError(f"turn {turn} with {len(history)} tokens of history")
        return [*history, *self.new_tokens(turn)]

    def prompt_tokens(self, turn: int) -> int:
        """Return the length of a turn's whole prompt when every earlier answer had its exact length."""
        earlier = sum(spec.new_input_tokens + spec.output_tokens for spec in self.turns[:turn])
        return earlier + self.turns[turn].new_input_tokens

    def request_body(
        self, turn: int, history: Sequence[int], *, model: str, cache_salt: str | None = None
    ) -> dict[str, Any]:
        """Return the `/v1/completions` body of one turn: token-id prompt, exact output length, greedy, streamed.

        `cache_salt` keeps a server that served these same tokens before (in another mode) from reusing their KV.
        """
        body: dict[str, Any] = {
            "model": model,
            "prompt": self.prompt(turn, history),
            "max_tokens": self.turns[turn].output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if cache_salt is not None:
            body["cache_salt"] = cache_salt
        return body

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the HTTP headers every turn carries."""
        return (("Content-Type", "application/json"), ("X-Session-Id", self.id))
