"""How often a long request lies in the router's memory at once, and what a stream under way takes there, as a program:
`python -m tests.unit.router.copies`.

The router runs in uvloop, as it does in production, in a process of its own with nothing else in it but a client that
copies nothing; the workers are in another one.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from time import sleep
from typing import Any

import uvloop

from tercet.router.app import Router
from tercet.router.config import RouterConfig
from tests.unit.router.fake_vision import Embeddings, SeeingWorker
from tests.unit.router.fake_worker import FakeWorker, Tickets

SIZE = 4 << 20
STREAMS = 100
WORDS = 2000
LONG = (("prompt", "A", "aggregated"), ("prompt", "PD", "pd"), ("picture", "A", "aggregated"), ("picture", "PD", "pd"))
CASES = (*LONG, ("streams", "A", "aggregated"), ("streams", "PD", "pd"))


class Brief(FakeWorker):
    """Its tickets do not list the prompt's tokens, as vLLM's don't: of 4 MiB they are 6 more."""

    def _more_of_ticket(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_token_ids": []}


async def serve_workers(letters: str, what: str) -> None:
    """Serve, say where, and go on until the input ends."""
    seeing, kind = what == "picture", Brief if what == "prompt" else FakeWorker
    tickets, embeddings = Tickets(), Embeddings()
    workers: list[FakeWorker] = [
        SeeingWorker(x, tickets, embeddings, encodes=x in "PA") if seeing else kind(x, tickets) for x in letters
    ]
    gate = asyncio.Event()
    for worker in workers:
        worker.gate, worker.gate_after = gate, 1  # streams stand still after their first token
        await worker.start()
    print(json.dumps([worker.url for worker in workers]), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    gate.set()
    await asyncio.to_thread(sys.stdin.read)


def body_of(what: str) -> bytes:
    """Return a request of 4 MiB."""
    data: dict[str, Any]
    if what == "nothing":
        return json.dumps({"model": "m", "prompt": "a", "messages": [{"role": "user", "content": "a"}]}).encode()
    data = {"model": "m", "max_tokens": 4, "stream": True}
    if what == "prompt":
        return json.dumps({**data, "prompt": "word " * (SIZE // 5)}).encode()
    uri = "data:image/png;base64," + base64.b64encode(os.urandom(SIZE // 4 * 3)).decode()
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": uri}}]
    return json.dumps({**data, "messages": [{"role": "user", "content": parts}]}).encode()


def ask(port: int, path: str, body: bytes, on_first: Callable[[], None] | None = None) -> int:
    """Send a request, and return the status of its answer: blocking, and without a copy of the body. `on_first` is
    called when it has begun, and the rest read."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode())
        connection.sendall(memoryview(body))
        status = int(connection.recv(4096).split()[1])
        if on_first is None:
            return status
        on_first()
        while not connection.recv(4096).endswith(b"0\r\n\r\n"):
            pass
        return status


def hold(port: int, count: int, name: str) -> list[socket.socket]:
    """Begin streams; return their connections when each has its first bytes."""
    held = []
    for i in range(count):
        data = {"model": "m", "max_tokens": 4, "stream": True, "prompt": f"{name}{i} " + "word " * WORDS}
        body = json.dumps(data).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.sendall(head.encode() + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        held.append(connection)
    return held


async def stream_bytes(port: int) -> int:
    """Return what a stream under way takes."""
    held = await asyncio.to_thread(hold, port, STREAMS, "first")
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    held += await asyncio.to_thread(hold, port, STREAMS, "second")
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    for connection in held:
        connection.close()
    return taken // STREAMS


async def measure(what: str, letters: str, mode: str, urls: list[str], go: Callable[[], None]) -> dict[str, object]:
    """Return how many times the body lay in memory at most while a request of it was served, and while its answer
    streamed. `go` has the workers end their answers."""
    flags: dict[str, list[str]] = {"A": [], "P": [], "D": []}
    for letter, url in zip(letters, urls, strict=True):
        flags[letter].append(url)
    config = RouterConfig(
        mode=None,
        port=0,
        workers=tuple(flags["A"]),
        prefill=tuple(flags["P"]),
        decode=tuple(flags["D"]),
        health_interval_s=0.1,
    )
    router = Router(config)
    await router.start()
    try:
        fleet = router.parts.fleet
        async with asyncio.timeout(30):
            while not all(map(fleet.ready, fleet.ranks)) or (mode == "pd" and not fleet.paired(*urls)):
                await asyncio.sleep(0.05)
        if what == "streams":
            return {"what": what, "mode": mode, "bytes": await stream_bytes(router.port)}
        path = "/v1/completions" if what == "prompt" else "/v1/chat/completions"
        small = body_of("nothing")
        await asyncio.to_thread(ask, router.port, path, small)
        body = body_of(what)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        held = 0

        def on_first() -> None:
            nonlocal held
            looks = 0
            while looks < 3:  # until what was sent is let go of
                sleep(0.1)
                gc.collect()
                now = tracemalloc.get_traced_memory()[0] - before
                looks = looks + 1 if held and now > held - len(body) // 100 else 0
                held = now
            go()

        status = await asyncio.to_thread(ask, router.port, path, body, on_first)
        peak = tracemalloc.get_traced_memory()[1] - before
        copies, streaming = round(peak / len(body), 2), round(held / len(body), 2)
        return {"what": what, "mode": mode, "status": status, "copies": copies, "streaming": streaming}
    finally:
        await router.close(0)


def main() -> None:
    """Measure each case, or serve as their workers."""
    if len(sys.argv) > 1:
        asyncio.run(serve_workers(sys.argv[1], sys.argv[2]))
        return
    tracemalloc.start(int(os.environ.get("FRAMES", "1")))
    for what, letters, mode in CASES:
        command = [sys.executable, "-m", "tests.unit.router.copies", letters, what]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as workers:
            assert workers.stdout is not None and workers.stdin is not None
            urls = json.loads(workers.stdout.readline())
            to_workers = workers.stdin

            def go() -> None:
                to_workers.write("go\n")  # noqa: B023 - called before the next case begins
                to_workers.flush()  # noqa: B023

            print(json.dumps(uvloop.run(measure(what, letters, mode, urls, go))), flush=True)
            workers.stdin.close()


if __name__ == "__main__":
    main()
