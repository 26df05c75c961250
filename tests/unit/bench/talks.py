"""Conversations and results for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.traffic.conversation import TurnSpec
from tercet.traffic.prompts import Said


@dataclass(frozen=True, slots=True)
class PlainTalk:
    """A conversation of `/v1/completions` requests with token-id prompts, or of chat requests."""

    id: str
    arrival_s: float
    turns: tuple[TurnSpec, ...]
    chat: bool = False

    def request_body(
        self, turn: int, answers: Sequence[Said], *, model: str, cache_salt: str | None = None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "max_tokens": self.turns[turn].output_tokens, "stream": True}
        if self.chat:
            return {**body, "messages": [{"role": "user", "content": "hi"}]}
        prompt = [token for i, answer in enumerate(answers) for token in (100 + i, *answer.token_ids)]
        return {**body, "prompt": [*prompt, 100 + turn], "ignore_eos": True, "cache_salt": cache_salt}

    def prompt_tokens(self, turn: int) -> int | None:
        return None if self.chat else sum(1 + spec.output_tokens for spec in self.turns[:turn]) + 1

    def text_tokens(self, turn: int) -> int | None:
        return 1

    def images(self, turn: int) -> int:
        return 0

    def headers(self) -> tuple[tuple[str, str], ...]:
        return (("X-Session-Id", self.id),)


def talks(count: int, *, turns: int = 1, tokens: int = 4, every_s: float = 0.0, chat: bool = False) -> list[PlainTalk]:
    spec = (TurnSpec(1, tokens),) * turns
    return [PlainTalk(f"c{i}", i * every_s, spec, chat) for i in range(count)]
