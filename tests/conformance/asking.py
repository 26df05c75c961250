"""Asks stand-ins directly, without a router between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tercet.http.client import Client
from tests.conformance.engine import Engine

PATH = "/v1/completions"
BODY: dict[str, Any] = {"model": "m", "prompt": "a b c", "max_tokens": 4}
Got = tuple[int, Any]


class Workers:
    """Real servers, asked over real sockets."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines, self.client = engines, Client()

    async def ask(self, letter: str, body: dict[str, Any], path: str = PATH, **headers: str) -> Got:
        """Ask the worker of this role; its status and its whole answer as JSON, or bytes where it is none."""
        engine = next(engine for engine in self.engines if engine.role == letter)
        sent = [("Content-Type", "application/json"), *((k.replace("_", "-"), v) for k, v in headers.items())]
        response = await self.client.request("POST", engine.url + path, headers=sent, body=json.dumps(body).encode())
        data = await response.read()
        return response.status, json.loads(data) if not data.startswith(b"data:") else data

    @property
    def faults(self) -> list[str]:
        return [fault for engine in self.engines for fault in engine.faults]


@asynccontextmanager
async def running(*engines: Engine) -> AsyncIterator[Workers]:
    for engine in engines:
        await engine.server.start()
    workers = Workers(engines)
    try:
        yield workers
    finally:
        await workers.client.close()
        for engine in engines:
            await engine.stop()


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in names}
