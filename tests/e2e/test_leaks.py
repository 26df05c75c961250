"""Nothing stays behind: blocks return to zero whatever clients do; a slow decode worker loses no ticket."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from tercet.http.client import Client
from tests.e2e.conftest import TINY, Serve, metric, start_serve, stop_serve

REQUESTS = 1000
CONCURRENCY = 24


async def storm(serve: Serve, seed: int) -> tuple[int, int]:
    """Send random short requests of which a third leave early; return (answered, left)."""
    rng = random.Random(seed)
    client = Client()
    gate = asyncio.Semaphore(CONCURRENCY)
    answered = left = 0

    async def one(prompt: list[int], tokens: int, stream: bool, leave_after: float | None) -> None:
        nonlocal answered, left
        body = json.dumps({"prompt": prompt, "max_tokens": tokens, "stream": stream, "ignore_eos": True}).encode()

        async def send() -> None:
            response = await client.request("POST", f"{serve.url}/v1/completions", body=body)
            data = await response.read()
            assert response.status == 200, data

        async with gate:
            try:
                await asyncio.wait_for(send(), leave_after)
                answered += 1
            except TimeoutError:
                left += 1

    try:
        async with asyncio.TaskGroup() as group:
            for i in range(REQUESTS):
                prompt = [rng.randrange(256) for _ in range(rng.randrange(1, 80))]
                leave = rng.uniform(0.0, 0.15) if i % 3 == 0 else None
                group.create_task(one(prompt, rng.randrange(1, 12), rng.random() < 0.5, leave))
    finally:
        await client.close()
    return answered, left


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["pd", "ppd"])
def test_blocks_return_to_zero_when_clients_leave(mode: str, split_shm: Serve) -> None:
    split_shm.mode(mode)
    answered, left = asyncio.run(storm(split_shm, seed=len(mode)))
    assert answered + left == REQUESTS and answered >= REQUESTS * 2 // 3 and left > 0
    split_shm.wait_idle()
    prefill = split_shm.workers("prefill")[0]["url"]
    assert metric(prefill, "tercet:handoffs_total", result="expired") == 0


@pytest.mark.slow
def test_blocks_return_to_zero_in_a_replica(replicas: Serve) -> None:
    replicas.mode("replicated")
    answered, left = asyncio.run(storm(replicas, seed=3))
    assert answered + left == REQUESTS and left > 0
    replicas.wait_idle()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ten_prefills_for_one_slow_decode_worker(tmp_path: Path, replicas: Serve) -> None:
    # D's pool holds about two of these sequences at a time: the others wait, longer than a lease.
    small = ("--kv-blocks", "24", "--max-model-len", "256", "--lease", "1")
    serve = start_serve(tmp_path, "1P1D", "--mode", "pd", *TINY, *small)
    try:
        asyncio.run(ten(serve, replicas))
        serve.wait_idle()
    finally:
        stop_serve(serve)


async def ten(serve: Serve, reference: Serve) -> None:
    async def ask(base: Serve, i: int) -> list[int]:
        body = {"prompt": [i] * 100, "max_tokens": 80, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        answer = await asyncio.to_thread(base.complete, body)
        assert answer.status == 200, answer
        ids: list[int] = answer.body["choices"][0]["token_ids"]
        return ids

    got = await asyncio.gather(*(ask(serve, i) for i in range(10)))
    want = await asyncio.gather(*(ask(reference, i) for i in range(10)))
    assert got == want
