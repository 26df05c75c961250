"""CPU time that a streamed token costs in a worker's front and in its engine loop, the model left out.

`python benchmarks/worker/front_overhead.py [--streams 16,64] [--tokens 200] [--step-ms 10] [--pin CORE]`

The worker is real, its executor a stub: steps of a fixed length, tokens out of a list. Printed is the CPU time of the
front process and of the engine process (all threads, user + system, in nanoseconds from the scheduler) per streamed
token, and what one request costs beside its tokens. Runs of several lengths are interleaved, medians are taken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop

from tercet.http.client import Client, ClientError

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds per token of front and engine, and the mean gap between two events of a stream in ms."""

    front_us: float
    engine_us: float
    gap_ms: float


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process in nanoseconds."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def stream(client: Client, url: str, body: bytes) -> int:
    """Send one streaming request, return its number of events."""
    response = await client.request("POST", url, body=body)
    assert response.status == 200, await response.read()
    count = 0
    async for piece, _ in response.chunks():
        count += piece.count(b"data: ")
    return count


async def measure(client: Client, base: str, front: int, engine: int, streams: int, tokens: int, chat: bool) -> Cost:
    """Run `streams` requests of `tokens` tokens at once."""
    url = f"{base}/v1/chat/completions" if chat else f"{base}/v1/completions"
    prompt = {"messages": [{"role": "user", "content": "Tell me."}]} if chat else {"prompt": "Tell me."}
    body = json.dumps({**prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True}).encode()
    before, started = (cpu_ns(front), cpu_ns(engine)), time.perf_counter()
    counts = await asyncio.gather(*(stream(client, url, body) for _ in range(streams)))
    after, ended = (cpu_ns(front), cpu_ns(engine)), time.perf_counter()
    assert all(count >= tokens for count in counts), counts
    total = streams * tokens
    return Cost(
        (after[0] - before[0]) / total / 1e3, (after[1] - before[1]) / total / 1e3, (ended - started) / tokens * 1e3
    )


async def ready(client: Client, base: str) -> tuple[int, int]:
    """Wait until the worker is ready; return the engine's pid and rank."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            response = await client.request("GET", f"{base}/ready")
            answer = json.loads(await response.read())
            if response.status == 200:
                return answer["engines"][0]["pid"], 0
        except ClientError:
            pass
        await asyncio.sleep(0.1)
    raise TimeoutError("the worker did not get ready")


async def bench(arguments: argparse.Namespace, front: int, base: str) -> None:
    """Measure and print."""
    client = Client(max_connections_per_host=256)
    try:
        engine, _ = await ready(client, base)
        for streams in map(int, arguments.streams.split(",")):
            for chat in (False, True):
                await measure(client, base, front, engine, streams, 20, chat)
                costs = [
                    await measure(client, base, front, engine, streams, arguments.tokens, chat)
                    for _ in range(arguments.repeats)
                ]
                print(
                    f"{'chat       ' if chat else 'completions'} {streams:4d} streams: "
                    f"front {median(c.front_us for c in costs):6.1f} us a token, "
                    f"engine loop {median(c.engine_us for c in costs):6.1f} us a token, "
                    f"{median(c.gap_ms for c in costs):5.1f} ms between tokens",
                    flush=True,
                )
    finally:
        await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="16,64")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--front", default=str(HERE / "stub_front.py"), help="script that runs the front")
    arguments = parser.parse_args()
    port = free_port()
    environment = {**os.environ, "STUB_STEP_MS": str(arguments.step_ms), "PYTHONPATH": str(HERE.parents[1] / "src")}
    command = [sys.executable, arguments.front, str(port)]
    front = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        uvloop.run(bench(arguments, front.pid, f"http://127.0.0.1:{port}"))
    finally:
        front.terminate()
        front.wait(20)


if __name__ == "__main__":
    main()
