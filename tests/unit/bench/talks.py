"""Conversations and results for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.traffic.conversation import TurnSpec


@dataclass(frozen=True, slots=True)
class PlainTalk:
    """A conversation of `/v1/completions` requests with token-id prompts, or of chat requests."""

    id: str
    arrival_s: float
    turns: tuple[TurnSpec, ...]
    chat: bool = False

    def request_body(
        self, turn: int, history: Sequence[int], *, model: str, cache_salt: str | None = None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "max_tokens": self.turns[turn].output_tokens, "stream": True}
        if self.chat:
            return {**body, "messages": [{"role": "user", "content": "hi"}]}
        return {**body, "prompt": [*history, 100 + turn], "ignore_eos": True, "cache_salt": cache_salt}

    def headers(self) -> tuple[tuple[str, str], ...]:
        return (("X-Session-Id", self.id),)


def talks(count: int, *, turns: int = 1, tokens: int = 4, every_s: float = 0.0, chat: bool = False) -> list[PlainTalk]:
    spec = (TurnSpec(1, tokens),) * turns
    return [PlainTalk(f"c{i}", i * every_s, spec, chat) for i in range(count)]
