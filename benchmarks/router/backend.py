"""What stands behind the routers that are measured: workers that answer at no cost, and the load on the routers.

A worker streams 64 chunks at a fixed pace, or gives one short JSON answer; asked to prefill, it returns a ticket of
1,000 token ids. One process plays several workers, each on a port of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

from tercet.http.client import Client
from tercet.http.server import Request, Responder, Server

CHUNKS = 64
EVENT = b'data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" word","logprobs":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
PATH = "/v1/completions"
USAGE = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
ANSWER = {
    "id": "cmpl-1",
    "object": "text_completion",
    "model": "m",
    "choices": [{"index": 0, "text": "word", "finish_reason": "length"}],
    "usage": USAGE,
}
TICKET = {"do_remote_prefill": True, "ticket_id": "t", "prompt_token_ids": list(range(1000)), "addresses": {"shm": {}}}
FIXED = {
    "/ready": {"ready": True, "engines": [{"rank": 0, "engine_id": "e", "ready": True}]},
    "/v1/models": {"object": "list", "data": [{"id": "m", "object": "model"}]},
    "/kv/release": {},
}
HEADERS = [("X-Tercet-Prompt-Tokens", "40"), ("X-Tercet-Cached-Tokens", "0"), ("Server-Timing", "queue;dur=0.10")]
WHOLE = json.dumps(ANSWER).encode()
PREFILLED = json.dumps({**ANSWER, "kv_transfer_params": TICKET}).encode()


_GAP_MS = re.compile(rb'"gap_ms":([0-9]+)')


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load: how many requests at once, how often each slot asks, the prompt's length in words, and the
    time between two chunks in seconds; None: answers that are not streamed."""

    name: str
    at_once: int
    rounds: int
    words: int
    gap_s: float | None

    @property
    def streamed(self) -> bool:
        """True for streams."""
        return self.gap_s is not None


async def worker(request: Request, responder: Responder) -> None:
    """Answer as a worker would. The pace is what the request's `gap_ms` says."""
    body = request.body
    if b'"do_remote_decode":true' in body:
        await responder.send(200, PREFILLED, headers=HEADERS)
    elif b'"stream":true' in body:
        gap = _GAP_MS.search(body)
        gap_s = int(gap[1]) / 1000 if gap else 0.0
        responder.start(200, headers=HEADERS)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(CHUNKS):
            responder.write(EVENT)
            due += gap_s
            await asyncio.sleep(due - loop.time())
        responder.write(DONE)
    elif body:
        await responder.send(200, WHOLE, headers=HEADERS)
    else:
        data = FIXED.get(request.path, {"status": "ok"})
        await responder.send(200, json.dumps(data).encode(), headers=HEADERS)


async def serve_workers(ports: list[int]) -> None:
    """Be a worker on each of `ports`, until killed."""
    for port in ports:
        await Server(worker, port=port).start()
    await asyncio.Event().wait()


async def run_load(port: int, load: Load, salt: str) -> int:
    """Send a load to `port`; return how many requests were answered, each checked for length. No two prompts begin
    alike."""
    client = Client()
    url = f"http://127.0.0.1:{port}{PATH}"
    expected = len(EVENT) * CHUNKS + len(DONE) if load.streamed else None
    words = "word " * load.words
    gap_ms = round((load.gap_s or 0) * 1000)

    async def one(slot: int) -> None:
        for i in range(load.rounds):
            prompt = f"{salt}{slot}/{i} {words}"
            body = {"model": "m", "gap_ms": gap_ms, "prompt": prompt, "max_tokens": 64, "stream": load.streamed}
            response = await client.request(
                "POST",
                url,
                headers=[("Content-Type", "application/json")],
                body=json.dumps(body, separators=(",", ":")).encode(),
                first_byte_timeout_s=120,
                idle_timeout_s=60,
            )
            got = await response.read()
            if response.status != 200 or (expected is not None and len(got) != expected):
                raise RuntimeError(f"a wrong answer: {response.status}, {len(got)} bytes: {got[:200]!r}")

    await asyncio.gather(*(one(slot) for slot in range(load.at_once)))
    await client.close()
    return load.at_once * load.rounds
