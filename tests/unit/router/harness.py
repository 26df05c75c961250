"""A router before fake workers, all on real sockets."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tercet.core.stage import Mode
from tercet.http.client import Client
from tercet.http.sse import SSEParser
from tercet.router.app import Router
from tercet.router.config import RouterConfig
from tests.unit.router.fake_vision import Embeddings, SeeingWorker
from tests.unit.router.fake_worker import FakeWorker, Tickets


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        choice = self.json["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])

    @property
    def events(self) -> list[str]:
        return SSEParser().feed(self.body)

    @property
    def streamed(self) -> str:
        """The text of a whole stream."""
        assert self.events[-1] == "[DONE]", self.events
        chunks = [json.loads(data) for data in self.events[:-1]]
        choices = [c["choices"][0] for c in chunks if c["choices"]]
        return "".join(c["delta"].get("content") or "" if "delta" in c else c["text"] for c in choices)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "code", "param"}
        return error

    @property
    def route(self) -> str:
        return self.headers["x-tercet-route"]


@dataclass
class Setup:
    router: Router
    workers: list[FakeWorker]
    tickets: Tickets
    embeddings: Embeddings = field(default_factory=Embeddings)
    client: Client = field(default_factory=Client)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.router.port}"

    def role(self, letter: str) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker.role == letter]

    async def send(
        self, method: str, path: str, body: bytes | dict[str, Any] = b"", headers: dict[str, str] | None = None
    ) -> Got:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        sent = {"Content-Type": "application/json", **(headers or {})}
        response = await self.client.request(method, self.url + path, headers=sent.items(), body=data)
        return Got(response.status, dict(response.headers), await response.read())

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Got:
        return await self.send("GET", path, headers=headers)

    async def post(self, path: str, body: bytes | dict[str, Any] = b"", headers: dict[str, str] | None = None) -> Got:
        return await self.send("POST", path, body, headers)

    async def chat(self, *texts: str, headers: dict[str, str] | None = None, **extra: Any) -> Got:
        """Messages alternate between user and assistant."""
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        return await self.post("/v1/chat/completions", {"model": "m", "messages": messages, **extra}, headers)

    async def look(self, *turns: Sequence[str | bytes], headers: dict[str, str] | None = None, **extra: Any) -> Got:
        """Turns alternate between user and assistant; in the user's bytes are pictures, and so is a text that is a
        URL."""
        messages = [
            {"role": ("user", "assistant")[i % 2], "content": turn if isinstance(turn, str) else list(map(part, turn))}
            for i, turn in enumerate(turns)
        ]
        return await self.post("/v1/chat/completions", {"model": "m", "messages": messages, **extra}, headers)

    def seeing(self, letter: str) -> list[SeeingWorker]:
        return [worker for worker in self.role(letter) if isinstance(worker, SeeingWorker)]

    async def complete(self, prompt: Any = "a b c", headers: dict[str, str] | None = None, **extra: Any) -> Got:
        return await self.post("/v1/completions", {"model": "m", "prompt": prompt, **extra}, headers)

    async def status(self) -> Any:
        return (await self.get("/status")).json

    async def metric(self, name: str, **labels: str) -> float:
        total = 0.0
        for line in (await self.get("/metrics")).body.decode().splitlines():
            if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    async def answering(self) -> None:
        """Wait until the first byte of an answer was passed on."""
        async with asyncio.timeout(30.0):
            while not await self.metric("tercet:router_time_to_first_byte_seconds_count"):
                await asyncio.sleep(0.005)

    async def ready(self) -> None:
        await until(lambda: self.router.parts.fleet.ranks and all(map(self.router.parts.fleet.ready, self.fleet_ranks)))
        paired, pairs = self.router.parts.fleet.paired, self.router.prober.pairs
        await until(lambda: all(paired(p.address, d.address) for p, d in pairs()))
        await until(lambda: not self.tickets.held and not self.embeddings.held)
        self.tickets.ended.clear()  # what the probes did
        self.embeddings.ended.clear()
        for worker in self.workers:
            if isinstance(worker, SeeingWorker):
                worker.encoded.clear()
                worker.pool.clear()

    @property
    def fleet_ranks(self) -> list[str]:
        return list(self.router.parts.fleet.ranks)

    async def idle(self) -> None:
        """Wait until nothing is under way; nothing may be held then, and no worker may have a complaint."""
        await until(lambda: not any(worker.running for worker in self.workers))
        await until(lambda: self.router.parts.fleet.in_flight == 0)
        await until(lambda: not self.tickets.held and not self.embeddings.held)
        for rank in self.router.parts.fleet.ranks.values():
            load = self.router.parts.fleet.load(rank)
            assert (load.requests, load.tokens) == (0, 0)
            assert self.router.parts.handoffs.unaccepted(rank.address) == 0
        assert [fault for worker in self.workers for fault in worker.faults] == []


def part(piece: str | bytes) -> dict[str, Any]:
    if isinstance(piece, bytes):
        piece = "data:image/png;base64," + b64encode(piece).decode()
    if "://" in piece or piece.startswith("data:"):
        return {"type": "image_url", "image_url": {"url": piece}}
    return {"type": "text", "text": piece}


async def until(check: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = monotonic() + timeout_s
    while not check():
        assert monotonic() < deadline, "timed out"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def routing(
    letters: str,
    mode: str | None = None,
    *,
    wait: bool = True,
    ranks: int = 1,
    also: tuple[str, ...] = (),
    seeing: str | None = None,
    **config: Any,
) -> AsyncIterator[Setup]:
    """`PPD`: two prefill workers and a decode worker behind a router. `also` are URLs of workers of another make.

    `seeing` makes them workers of a model that sees: "apart" if encode workers alone encode, "local" if those that
    prefill do too.
    """
    tickets, embeddings = Tickets(), Embeddings()
    workers: list[FakeWorker] = []
    for letter in letters:
        encodes = letter == "E" or (seeing == "local" and letter in "PA")
        if seeing:
            workers.append(SeeingWorker(letter, tickets, embeddings, encodes=encodes, ranks=ranks))
        else:
            workers.append(FakeWorker(letter, tickets, ranks=ranks))
        await workers[-1].start()
    said = "#encode" if seeing == "local" else ""
    urls = {x: tuple(w.url + (said if x in "PA" else "") for w in workers if w.role == x) for x in "APDE"}
    settings: dict[str, Any] = {"health_interval_s": 0.1, "health_timeout_s": 0.3, **config}
    if key := settings.get("worker_api_key"):
        for worker in workers:
            worker.api_key = key
    router = Router(
        RouterConfig(
            mode=Mode(mode) if mode else None,
            port=0,
            workers=urls["A"] + also,
            encode=urls["E"],
            prefill=urls["P"],
            decode=urls["D"],
            **settings,
        )
    )
    setup = Setup(router, workers, tickets, embeddings)
    await router.start()
    try:
        if wait:
            await setup.ready()
        yield setup
    finally:
        await setup.client.close()
        await router.close(0.5)
        for worker in workers:
            await worker.stop()
