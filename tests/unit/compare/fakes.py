"""A deployment and server to compare without engines: the real HTTP layer, made-up tokens, chosen delays."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tercet.bench.drive import drive
from tercet.bench.load import OnResult
from tercet.bench.sender import Headers
from tercet.compare.seams import OnRecord
from tercet.core.errors import RequestError
from tercet.core.topology import Topology
from tercet.http.server import Request, Responder, Server
from tercet.launch.progress import OnProgress, Progress
from tercet.results.record import ClientHealth
from tercet.traffic.spec import Talk


@dataclass
class Behaviour:
    """How the fakes behave. Delays in seconds; `later_s` maps a mode to the TTFT of its later turns."""

    first_s: float = 0.02
    later_s: dict[str, float] = field(default_factory=lambda: {"pd": 0.06, "replicated": 0.06})
    token_s: float = 0.001
    capital: str = "Paris."
    mistaken_mode: str | None = None
    failing_mode: str | None = None
    stuck_mode: str | None = None
    stuck_after: int = 0
    max_model_len: int = 4096
    api_key: str = ""
    plain: bool = False
    """It refuses what OpenAI's API does not know, and answers a token shorter than asked."""


async def punctual_drive(
    url: str,
    conversations: Iterable[Talk],
    *,
    model: str,
    cache_salt: str | None,
    on_record: OnRecord,
    headers: Headers = (),
    concurrency: int | None = None,
    ramp_s: float = 0.0,
    until_s: float | None = None,
    on_result: OnResult | None = None,
) -> ClientHealth:
    """Drive as always but call the client healthy: tests share their cores with others, and judge other things."""
    health = await drive(
        url,
        conversations,
        model=model,
        cache_salt=cache_salt,
        on_record=on_record,
        headers=headers,
        concurrency=concurrency,
        ramp_s=ramp_s,
        until_s=until_s,
        on_result=on_result,
    )
    return replace(health, saturated=False, reasons=())


class FakeDeployment:
    """A router and its workers in one server; remembers what was asked of it."""

    def __init__(self, topology: Topology, behaviour: Behaviour, log: list[str]) -> None:
        self.topology = topology
        self.mode: str = topology.mode
        self.behaviour = behaviour
        self.log = log
        self.cached: set[tuple[str, tuple[int, ...]]] = set()
        self._completions = 0
        self.busy_s = 0.0
        self._server = Server(self._handle)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def worker_urls(self) -> Mapping[str, str]:
        return {worker.name: self.url for worker in self.topology.workers}

    async def start(self, on_progress: OnProgress | None = None) -> None:
        self.log.append(f"start {self.topology.short_form}")
        if on_progress is not None:
            for part in (*(worker.name for worker in self.topology.workers), "router", "deployment"):
                on_progress(Progress(part, "ready"))
        await self._server.start()

    async def stop(self) -> None:
        self.log.append(f"stop {self.topology.short_form}")
        await self._server.close(0.0)

    async def _handle(self, request: Request, responder: Responder) -> None:
        key = self.behaviour.api_key
        if key and request.path != "/metrics" and request.headers.get("authorization") != f"Bearer {key}":
            raise RequestError(401, "an API key is needed")
        if request.path == "/v1/models":
            card = {"id": "fake", "object": "model", "vocab_size": 1000, "max_model_len": self.behaviour.max_model_len}
            await responder.send(200, json.dumps({"object": "list", "data": [card]}).encode())
        elif request.path == "/status":
            workers = [
                {"url": f"{self.url}/{worker.name}", "ranks": [{}] * worker.ranks} for worker in self.topology.workers
            ]
            await responder.send(200, json.dumps({"workers": workers}).encode())
        elif request.path == "/metrics":
            line = f'tercet:engine_busy_seconds_total{{rank="0",stage="decode"}} {self.busy_s}\n'
            await responder.send(200, line.encode(), content_type="text/plain")
        elif request.path == "/mode":
            await responder.send(200, json.dumps({"mode": self.mode}).encode())
        elif request.path.startswith("/mode/"):
            self.mode = request.path.removeprefix("/mode/")
            self.log.append(f"mode {self.mode}")
            await responder.send(200, b"{}")
        elif request.path == "/cache/reset":
            self.cached.clear()
            await responder.send(200, b"{}")
        elif request.path == "/conversations/clear":
            self.log.append("clear")
            await responder.send(200, b"{}")
        elif request.path == "/v1/chat/completions" and json.loads(request.body).get("stream"):
            await self._complete(json.loads(request.body), request.headers.get("x-session-id", ""), responder)
        elif request.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": self.behaviour.capital}
            await responder.send(200, json.dumps({"choices": [{"message": message}]}).encode())
        elif request.path == "/v1/completions":
            await self._complete(json.loads(request.body), request.headers.get("x-session-id", ""), responder)
        else:
            raise RequestError(404, f"no such path: {request.path}")

    async def _complete(self, body: dict[str, Any], session: str, responder: Responder) -> None:
        behaviour = self.behaviour
        if behaviour.failing_mode == self.mode:
            raise RequestError(503, "no worker is left")
        if behaviour.plain and "ignore_eos" in body:
            raise RequestError(400, "ignore_eos is not known")
        self._completions += "warm" not in session
        self.busy_s += 0.01
        if behaviour.stuck_mode == self.mode and self._completions > behaviour.stuck_after:
            self.log.append("stuck")
            await asyncio.sleep(60)
        chat = "messages" in body
        prompt: list[int] = list(map(ord, repr(body["messages"]))) if chat else body["prompt"]
        salt = str(body.get("cache_salt"))
        cached = max((n for n in range(0, len(prompt), 16) if (salt, tuple(prompt[:n])) in self.cached), default=0)
        await asyncio.sleep(behaviour.later_s.get(self.mode, behaviour.first_s) if cached else behaviour.first_s)
        seed = zlib.crc32(repr(prompt).encode()) + (behaviour.mistaken_mode == self.mode)
        answer = [300 + (seed + i) % 500 for i in range(max(1, body["max_tokens"] - behaviour.plain))]
        whole = prompt + answer
        self.cached.update((salt, tuple(whole[:n])) for n in range(0, len(whole) + 1, 16))
        responder.start(200, headers=(("X-Tercet-Route", "P0>D0"), ("X-Tercet-Cached-Tokens", str(cached))))
        for i, token in enumerate(answer):
            said: dict[str, Any] = {"delta": {"content": "x"}} if chat else {"text": "x"}
            choice: dict[str, Any] = {"index": 0, **said, "token_ids": [token], "finish_reason": None}
            if i == 0:
                choice["prompt_token_ids"] = prompt
            if i == len(answer) - 1:
                choice["finish_reason"] = "length"
            responder.write(
                b"data: " + json.dumps({"object": "text_completion", "choices": [choice]}).encode() + b"\n\n"
            )
            await responder.drain()
            await asyncio.sleep(behaviour.token_s)
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(answer),
            "total_tokens": len(prompt) + len(answer),
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        responder.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n")
        responder.finish()
