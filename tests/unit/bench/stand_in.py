"""A small OpenAI server to benchmark, strict about what it takes; and what a benchmark shows to nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tercet.bench.tally import Tally
from tercet.core.errors import RequestError
from tercet.http.server import Request, Responder, Server

EXTENSIONS = {"ignore_eos", "return_token_ids", "cache_salt"}
VISION_TOKENS = 64
"""What a picture makes."""


@dataclass
class StandIn:
    """Counts a token id as a token, a word as `per_word`, and adds a template's; remembers what it was asked."""

    takes_tokens: bool = True
    takes_extensions: bool = True
    template: int = 0
    later_template: int = 0
    per_word: int = 1
    delay_s: float = 0.0
    stuck_after: int | None = None
    key: str = ""
    max_model_len: int = 4096
    models: object = None
    """What /v1/models answers, instead of two."""
    router: object = None
    """What /status answers, as a router in mode pd; None: it is none."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    resets: int = 0

    async def __call__(self, request: Request, responder: Responder) -> None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise RequestError(401, "who are you?")
        if request.path == "/v1/models":
            card = {"id": "m", "max_model_len": self.max_model_len}
            listed = {"data": [card, {"id": "other"}]} if self.models is None else self.models
            await responder.send(200, json.dumps(listed).encode())
        elif self.router is not None and request.path in ("/mode", "/status"):
            said = {"mode": "pd"} if request.path == "/mode" else self.router
            await responder.send(200, json.dumps(said).encode())
        elif request.path == "/reset_prefix_cache":
            self.resets += 1
            self.seen.clear()
            await responder.send(200, b"")
        elif request.path in ("/v1/completions", "/v1/chat/completions"):
            await self._answer(json.loads(request.body), responder)
        else:
            raise RequestError(404, "no such path")

    async def _answer(self, body: dict[str, Any], responder: Responder) -> None:
        self.bodies.append(body)
        if not self.takes_extensions and EXTENSIONS & set(body):
            raise RequestError(400, "unknown field")
        if isinstance(body.get("prompt"), list) and not self.takes_tokens:
            raise RequestError(400, "the prompt must be text")
        if self.stuck_after is not None and len(self.bodies) > self.stuck_after:
            await asyncio.sleep(60)
        await asyncio.sleep(self.delay_s)
        prompt = self._count(body)
        text = json.dumps(body.get("prompt", body.get("messages")))
        cached = prompt if text in self.seen else 0
        self.seen.add(text)
        chat = "messages" in body
        responder.start(200)
        for i in range(body["max_tokens"]):
            choice: dict[str, Any] = {"delta": {"content": " so"}} if chat else {"text": " so"}
            if body.get("return_token_ids"):
                choice["token_ids"] = [300 + i]
            responder.write(f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode())
        usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}
        usage |= {"prompt_tokens_details": {"cached_tokens": cached}}
        responder.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())

    def _count(self, body: dict[str, Any]) -> int:
        if "prompt" in body:
            prompt = body["prompt"]
            return len(prompt) if isinstance(prompt, list) else len(prompt.split()) * self.per_word
        messages = body["messages"]
        tokens = self.template + self.later_template * (len(messages) // 2)
        for message in messages:
            content = message["content"]
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                tokens += len(part["text"].split()) * self.per_word if part["type"] == "text" else VISION_TOKENS
        return tokens


@asynccontextmanager
async def serving(stand_in: StandIn) -> AsyncIterator[str]:
    server = Server(stand_in)
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close(0)


class Silent:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tallies: list[Tally] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def running(self, text: str, total: int | None, tally: Tally) -> Iterator[None]:
        self.said.append(f"{text} ({total})")
        self.tallies.append(tally)
        yield
