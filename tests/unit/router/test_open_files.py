"""A router whose files run out refuses clients, and goes on serving those that it has."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter
from typing import Any

import pytest

from tercet.http.client import Client, ClientError, Response
from tercet.router.app import FILES_EACH
from tests.ports import free_port
from tests.unit.router.fake_worker import FakeWorker, Tickets
from tests.unit.router.harness import routing, until

LIMIT = 248
ROOM = (LIMIT - 128) // FILES_EACH


async def test_too_many_clients_are_refused_and_no_worker_is_taken_for_dead() -> None:
    worker, port, client = await FakeWorker("A", Tickets()).start(), free_port(), Client()
    worker.token_s = 0.05  # all are connected long before the first of them is answered
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tercet", "router", "--worker", worker.url, "--port", str(port)),
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, LIMIT)),
    )

    async def ask(i: int) -> str:
        body = b'{"model": "m", "prompt": "%d b", "max_tokens": 20, "stream": true}' % i
        url, headers = f"http://127.0.0.1:{port}/v1/completions", [("Content-Type", "application/json")]
        try:
            response = await client.request("POST", url, headers=headers, body=body)
            text = (await response.read()).decode()
        except ClientError as error:
            return "" if error.before_first_byte and error.reason == "closed" else str(error)
        if response.status == 503:
            return str(json.loads(text)["error"]["code"])
        return "whole" if response.status == 200 and text.endswith("[DONE]\n\n") else text

    async def ready() -> None:
        while True:
            try:
                response = await client.request("GET", f"http://127.0.0.1:{port}/ready")
                await response.read()
                if response.status == 200:
                    return
            except Exception:  # noqa: BLE001 - not yet listening
                pass
            await asyncio.sleep(0.05)

    try:
        await asyncio.wait_for(ready(), 60)
        answers = Counter(await asyncio.wait_for(asyncio.gather(*map(ask, range(ROOM + 40))), 60))
        assert set(answers) == {"whole", "too_many_connections"}
        assert ROOM - 1 <= answers["whole"] <= ROOM  # one connection may be that which asked whether it is ready
        answers = Counter(await asyncio.wait_for(asyncio.gather(*map(ask, range(2 * LIMIT))), 60))
        assert set(answers) <= {"whole", "too_many_connections", ""}
        assert ROOM - 1 <= answers["whole"] <= ROOM
        assert await asyncio.wait_for(ask(0), 30) == "whole"
    finally:
        process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        await client.close()
        await worker.stop()
    assert b"is down" not in errors and b"Traceback" not in errors
    assert f"at most {ROOM} clients at a time".encode() in errors, errors


async def no_more_than(connections: int, client: Client) -> None:
    """Bound a client's connections, and wait until those are closed that are over it: probes use them, too."""
    client._max_per_host = connections

    def closed() -> bool:
        for upstream in [each for idle in client._idle.values() for each in idle]:
            upstream.lost()
        return sum(client._count.values()) + sum(client._connecting.values()) <= connections

    await until(closed)


async def test_a_bound_of_our_own_says_nothing_of_a_workers_health(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, request = Counter[str](), Client.request

    async def counted(self: Client, method: str, url: str, **rest: Any) -> Response:
        asked[url] += 1
        return await request(self, method, url, **rest)

    monkeypatch.setattr(Client, "request", counted)
    async with routing("A", health_interval_s=0.02) as setup:
        (worker,), client = setup.workers, setup.router.parts.client
        worker.token_s = 0.02
        answer = asyncio.create_task(setup.complete("a b", stream=True, max_tokens=100))
        await until(lambda: worker.running)
        await no_more_than(1, client)
        before = asked[worker.url + "/ready"]
        await until(lambda: asked[worker.url + "/ready"] > before + 5)
        assert not answer.done() and setup.router.parts.fleet.ready(worker.url)
        assert (await answer).events[-1] == "[DONE]"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_a_bound_of_our_own_is_told_as_such_on_every_path(path: str) -> None:
    async with routing("A") as setup:
        await no_more_than(0, setup.router.parts.client)
        got = await setup.post(path, {"model": "m", "prompt": "a", "input": "a", "max_tokens": 1})
        assert (got.status, got.error["code"]) == (503, "too_many_connections")
