"""Small workers that speak the built-in engine's protocol and are strict about what they are sent.

A token is a word. A prompt's answer is a function of its number of words, so that every route must give the same.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tercet.core.errors import RequestError
from tercet.core.ids import new_id
from tercet.http.server import Request, Responder, Server

PREFILL_PARAMS = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
PRIVATE = re.compile(r"ec_transfer_params|bootstrap_|data_parallel_rank|routed_dp_rank|disagg")


@dataclass
class Tickets:
    """All tickets of one test: who holds what, and what became of it."""

    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)

    def end(self, ticket_id: str, how: str) -> bool:
        if self.held.pop(ticket_id, None) is None:
            return False
        self.ended[how] += 1
        return True


def words_of(body: dict[str, Any], path: str) -> list[str]:
    if path.endswith("/chat/completions"):
        return " ".join(f"{m['role']} {m['content']}" for m in body["messages"]).split()
    prompt = body["prompt"]
    return [str(i) for i in prompt] if isinstance(prompt, list) else prompt.split()


class FakeWorker:
    """One worker of role P, D or A. Attributes are knobs: turn them while it runs."""

    def __init__(self, role: str, tickets: Tickets, *, ranks: int = 1, model: str = "m", port: int = 0) -> None:
        self.role, self.tickets, self.ranks, self.model = role, tickets, ranks, model
        self.server = Server(self.handle, port=port)
        self.engine_ids = [new_id("engine") for _ in range(ranks)]
        self.ready = True
        self.build: dict[str, object] | None = None
        self.status = 200  # of inferences
        self.error: dict[str, Any] = {"message": "broken", "type": "server_error", "code": "engine_dead", "param": None}
        self.finish = ""  # forced finish reason
        self.gate: asyncio.Event | None = None  # inferences wait for it before they answer
        self.gate_after = 10**9  # streams wait for the gate after so many tokens
        self.token_s = 0.0
        self.timing = "queue;dur=1.00, prefill;dur=2.00"
        self.cut_after: int | None = None  # break the connection after so many events
        self.says: dict[str, bytes] = {}  # by path, in place of its answers with `status`
        self.stream: tuple[bytes, ...] = ()  # in place of every stream's events; before a second one it awaits the gate
        self.misfit = False
        self.refused_from = ""  # the URL of a prefill worker whose tickets end in a 500
        self.recomputes = False  # takes no blocks over, and the ticket stays out
        self.forgets = False  # has no prefix cache
        self.api_key: str | None = None
        self.also_says: list[tuple[str, str]] = []  # headers of its answers
        self.kv_use: float | None = None  # in its metrics, the same of every rank
        self.private = PRIVATE
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.faults: list[str] = []
        self.running = 0
        self.cancelled = 0
        self.resets = 0
        self.reset_answer: dict[str, object] = {"reset": True}
        self.cache: list[list[str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def start(self) -> FakeWorker:
        await self.server.start()
        return self

    async def stop(self) -> None:
        await self.server.close(0)

    async def restart(self) -> None:
        """Die at once, come back at the same port with new engines and empty caches."""
        port = self.server.port
        await self.stop()
        self.engine_ids = [new_id("engine") for _ in range(self.ranks)]
        self.cache.clear()
        self.server = Server(self.handle, port=port)
        await self.server.start()

    @property
    def inferences(self) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
        """What clients sent: the router's own probes left out."""
        return [item for item in self.seen if not item[2].get("x-request-id", "").startswith("probe-")]

    async def handle(self, request: Request, responder: Responder) -> None:
        path = request.path
        if path in self.says:
            await responder.send(self.status, self.says[path])
        elif path in ("/ready", "/health"):
            engines = [
                {"rank": i, "engine_id": engine_id, "ready": self.ready, "build": self.build}
                for i, engine_id in enumerate(self.engine_ids)
            ]
            data = {"ready": self.ready, "engines": engines}
            await self._json(responder, data, 200 if self.ready or path == "/health" else 503)
        else:
            await self._behind_door(request, responder)

    async def _behind_door(self, request: Request, responder: Responder) -> None:
        path = request.path
        if self.api_key is not None and request.headers.get("authorization") != f"Bearer {self.api_key}":
            raise RequestError(401, "who are you?")
        if path == "/v1/models":
            await self._json(responder, {"object": "list", "data": [{"id": self.model, "object": "model", "max": 7}]})
        elif path in ("/v1/chat/completions", "/v1/completions"):
            await self._inference(request, responder)
        elif path == "/kv/release":
            released = self.tickets.end(json.loads(request.body)["ticket_id"], "released")
            await self._json(responder, {"released": released})
        elif path == "/cache/reset":
            self.resets += 1
            self.cache.clear()
            await self._json(responder, self.reset_answer)
        elif path == "/metrics" and self.kv_use is not None:
            lines = [f'vllm:kv_cache_usage_perc{{rank="{i}"}} {self.kv_use}\n' for i in range(self.ranks)]
            await responder.send(200, "".join(lines).encode(), content_type="text/plain")
        elif path == "/v1/echo":
            self._rank(request)
            headers = [("ETag", request.headers.get("content-type", "")), *self.also_says]
            await responder.send(200, request.target.encode() + b"|" + request.body, headers=headers)
        else:
            raise RequestError(404, f"no such path: {path}")

    def _fault(self, message: str) -> RequestError:
        self.faults.append(message)
        return RequestError(400, f"fault: {message}")

    def _rank(self, request: Request) -> str:
        rank = request.headers.get("x-data-parallel-rank", "")
        if (self.ranks == 1) != (rank == "") or (rank and not 0 <= int(rank) < self.ranks):
            raise self._fault(f"rank {rank!r} of {self.ranks}")
        return rank

    async def _inference(self, request: Request, responder: Responder) -> None:
        body = json.loads(request.body)
        self.seen.append((request.path, body, dict(request.headers)))
        self._rank(request)
        if request.headers.get("content-type") != "application/json" or "x-request-id" not in request.headers:
            raise self._fault("headers")
        if any(self.private.match(key) for key in body):
            raise self._fault(f"private field in {sorted(body)}")
        if body.get("model", self.model) != self.model:
            raise RequestError(404, f"model {body['model']!r} is not served here", code="model_not_found")
        self.running += 1
        try:
            await self._serve(request.path, body, responder)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _serve(self, path: str, body: dict[str, Any], responder: Responder) -> None:
        params = body.get("kv_transfer_params")
        if self.status != 200:
            await self._json(responder, {"error": self.error}, self.status)
            return
        if self.gate is not None and self.gate_after > 10**8:
            await self.gate.wait()
        words = self._words(path, body)
        if self.role == "P" or (params or {}).get("do_remote_decode"):
            self._check_prefill(body, params)
            await self._prefill(path, body, words, responder)
            return
        external = 0
        if params is not None:
            external = self._take(params)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        cached = 0 if self.forgets else max((common(words, old) for old in self.cache), default=0)
        self.cache.append(words + self._answer(words, limit))
        headers = [
            ("X-Tercet-Prompt-Tokens", str(len(words))),
            ("X-Tercet-Cached-Tokens", str(cached)),
            ("X-Tercet-External-Tokens", str(external)),
            ("Server-Timing", self.timing),
            *self.also_says,
        ]
        await self._write(path, body, words, limit, cached, headers, responder)

    def _check_prefill(self, body: dict[str, Any], params: object) -> None:
        if params != PREFILL_PARAMS:
            raise self._fault(f"prefill params {params}")
        if (body.get("max_tokens"), body.get("n"), body.get("stream")) != (1, 1, False) or "stream_options" in body:
            raise self._fault(f"prefill body {body}")
        if body.get("max_completion_tokens", 1) != 1 or body.get("min_tokens", 0) > 1:
            raise self._fault(f"prefill limits {body}")

    async def _prefill(self, path: str, body: dict[str, Any], words: list[str], responder: Responder) -> None:
        cached = max((common(words, old) for old in self.cache), default=0)
        self.cache.append(words)
        ticket_id = new_id("ticket")
        ticket = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "ticket_id": ticket_id,
            "from": self.url,
            "prompt_token_ids": list(range(len(words))),
            "first_token": {"id": 3, "logprob": None, "top": []},
        }
        finish = self.finish or "length"
        answer = self._whole(path, body, [self._answer(words, 1)], len(words), cached, finish)
        if finish == "length":
            answer["kv_transfer_params"] = self.tickets.held[ticket_id] = ticket | self._more_of_ticket(body)
        await self._json(responder, answer, headers=[("Server-Timing", "prefill;dur=9.00")])

    def _more_of_ticket(self, body: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _take(self, params: dict[str, Any]) -> int:
        if self.misfit:
            raise RequestError(400, "other dtype", code="ticket_mismatch")
        ticket = self.tickets.held.get(params.get("ticket_id", ""))
        if ticket != params:
            raise self._fault(f"ticket {params}")
        if self.recomputes:
            return 0
        if self.refused_from and params["from"] == self.refused_from:
            raise RequestError(500, "the blocks did not come", code="transfer_failed")
        self.tickets.end(params["ticket_id"], "accepted")
        return len(ticket["prompt_token_ids"])

    def _words(self, path: str, body: dict[str, Any]) -> list[str]:
        return words_of(body, path)

    @staticmethod
    def _answer(words: list[str], limit: int) -> list[str]:
        return [f"w{len(words) + i}" for i in range(limit)]

    async def _write(
        self,
        path: str,
        body: dict[str, Any],
        words: list[str],
        limit: int,
        cached: int,
        headers: list[tuple[str, str]],
        responder: Responder,
    ) -> None:
        finish, n = self.finish or "length", body.get("n") or 1
        answer = self._answer(words, limit)
        if not body.get("stream"):
            await asyncio.sleep(self.token_s * limit)
            data = self._whole(path, body, [answer] * n, len(words), cached, finish)
            await self._json(responder, data, headers=headers)
            return
        chat = path.endswith("/chat/completions")
        responder.start(200, headers=headers)
        for i, piece in enumerate(self.stream):
            if i and self.gate is not None:
                await self.gate.wait()
            responder.write(piece)
            await responder.drain()
        if self.stream:
            responder.finish()
            return
        for i, word in enumerate(answer):
            if i == self.cut_after:
                responder.abort()
                return
            if i == self.gate_after and self.gate is not None:
                await self.gate.wait()
            text = " " + word if i else word
            choice: dict[str, Any] = {"index": 0, "finish_reason": finish if i == limit - 1 else None}
            choice |= {"delta": {"content": text}} if chat else {"text": text}
            responder.write(event({"id": "x", "choices": [choice]}))
            await responder.drain()
            await asyncio.sleep(self.token_s)
        if (body.get("stream_options") or {}).get("include_usage"):
            responder.write(event({"id": "x", "choices": [], "usage": usage(len(words), limit, cached)}))
        responder.write(b"data: [DONE]\n\n")
        responder.finish()

    def _whole(
        self, path: str, body: dict[str, Any], answers: list[list[str]], prompt: int, cached: int, finish: str
    ) -> dict[str, Any]:
        chat = path.endswith("/chat/completions")
        choices: list[dict[str, Any]] = []
        for i, answer in enumerate(answers):
            text = " ".join(answer)
            content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choices.append({"index": i, **content, "finish_reason": finish})
        total = sum(len(answer) for answer in answers)
        return {
            "id": "x",
            "object": "chat.completion" if chat else "text_completion",
            "model": body.get("model", self.model),
            "choices": choices,
            "usage": usage(prompt, total, cached),
        }

    @staticmethod
    async def _json(
        responder: Responder, data: dict[str, Any], status: int = 200, headers: list[tuple[str, str]] | None = None
    ) -> None:
        await responder.send(status, json.dumps(data).encode(), headers=headers or [])


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def common(one: list[str], other: list[str]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
