"""A data set's conversations: real texts, asked as they are written there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.traffic.conversation import TokenRange, TurnSpec
from tercet.traffic.prompts import PromptForm, Prompts, Said
from tercet.traffic.scripts import Script
from tercet.traffic.words import text_of

SALT_WORDS = 4
"""Words that a run puts before each of its texts, so that it isn't served from an earlier run's cache."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A conversation of real texts. `turns` hold no input lengths: only the server's tokeniser knows them."""

    id: str
    salt: str
    arrival_s: float
    script: Script
    turns: tuple[TurnSpec, ...]
    prompts: Prompts

    def prompt_tokens(self, turn: int) -> int | None:
        """Return None: the length of real text is the server's to count."""
        return None

    def text_tokens(self, turn: int) -> int | None:
        """Return None, likewise."""
        return None

    def images(self, turn: int) -> int:
        """Return how many pictures the turn's request carries."""
        return self.script.turns[turn].images

    def request_body(
        self, turn: int, answers: Sequence[Said], *, model: str, cache_salt: str | None = None
    ) -> dict[str, Any]:
        """Return the body of one turn, greedy and streamed."""
        body = self.prompts.body(model, self.turns[turn].output_tokens, cache_salt)
        if self.prompts.form is PromptForm.CHAT:
            body["messages"] = self._messages(turn, answers)
        else:
            said = [spec.text or "" for spec in self.script.turns]
            earlier = "".join(f"{said[i]}\n{answer.text}\n" for i, answer in enumerate(answers))
            body["prompt"] = f"{self._lead()}\n{earlier}{said[turn]}"
        return body

    def _messages(self, turn: int, answers: Sequence[Said]) -> list[dict[str, Any]]:
        whole = self.script.turns[0].messages
        messages: list[dict[str, Any]] = json.loads(whole) if whole else []
        if not whole:
            for i in range(turn + 1):
                messages.append({"role": "user", "content": self.script.turns[i].text or ""})
                if i < turn:
                    messages.append({"role": "assistant", "content": answers[i].text})
        first = messages[0]
        if isinstance(first.get("content"), str):
            messages[0] = {**first, "content": f"{self._lead()}\n{first['content']}"}
        else:
            messages[0] = {**first, "content": [{"type": "text", "text": self._lead()}, *_parts(first)]}
        return messages

    def _lead(self) -> str:
        return text_of(TokenRange().draw(f"{self.salt}\0{self.id}", SALT_WORDS))

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the HTTP headers every turn carries."""
        return (("Content-Type", "application/json"), ("X-Session-Id", self.id))


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
