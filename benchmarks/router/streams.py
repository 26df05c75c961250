"""What the router adds to latency, and what it needs of memory, at 1,000 streams.

`python -m benchmarks.router.streams [--streams 1000] [--gap-ms 100] [--repeats 3]`

The same client asks a worker straight, and through the router in mode `replicated`, in turn: streams that begin evenly
spread over one stream's length, twice each. Printed are time to the first byte and time between chunks beyond the
worker's pace, median and 99th percentile of each; their differences are what the router adds, as far as the machine is
quiet: client, worker and router share it. Memory is what the router's resident set grew by, over the streams open at
once (their connections' buffers in the kernel are not in it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from statistics import median, quantiles
from time import perf_counter_ns

import psutil
import uvloop
from benchmarks.router.backend import PATH
from benchmarks.router.router_cost import commands, start, stop

from tercet.http.client import Client


async def times(port: int, streams: int, gap_s: float, pid: int | None) -> tuple[list[float], list[float], int]:
    """Return the milliseconds to first bytes, and between chunks beyond the pace; and the most memory that process
    `pid` had meanwhile."""
    client = Client()
    length_s, firsts, gaps = 64 * gap_s, list[float](), list[float]()
    most = 0

    async def one(slot: int) -> None:
        await asyncio.sleep(length_s * slot / streams)
        for turn in range(2):
            prompt = f"{port}/{slot}/{turn} " + "word " * 10
            body = {"model": "m", "gap_ms": round(gap_s * 1000), "prompt": prompt, "max_tokens": 64, "stream": True}
            began = perf_counter_ns()
            response = await client.request(
                "POST",
                f"http://127.0.0.1:{port}{PATH}",
                headers=[("Content-Type", "application/json")],
                body=json.dumps(body, separators=(",", ":")).encode(),
            )
            last = 0
            async for _, at in response.chunks():
                if last:
                    gaps.append((at - last) / 1e6 - gap_s * 1000)
                else:
                    firsts.append((at - began) / 1e6)
                last = at

    async def watch() -> None:
        nonlocal most
        while pid is not None:
            most = max(most, psutil.Process(pid).memory_info().rss)
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(one(slot) for slot in range(streams)))
    watching.cancel()
    await client.close()
    return firsts, gaps, most


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--gap-ms", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--port", type=int, default=18700)
    args = parser.parse_args()
    workers = [sys.executable, "-m", "benchmarks.router.router_cost", "--role", "workers", "--base", str(args.port)]
    processes = [start(workers, args.port)]
    try:
        processes.append(start(commands(args.port, None)["replicated"], args.port + 2))
        pid = processes[-1].pid
        before = psutil.Process(pid).memory_info().rss
        for repeat in range(args.repeats):
            for name, port, watched in (("straight", args.port, None), ("through the router", args.port + 2, pid)):
                firsts, gaps, most = uvloop.run(times(port, args.streams, args.gap_ms / 1000, watched))
                print(
                    f"{name:18} first byte {median(firsts):6.2f} ms, p99 {quantiles(firsts, n=100)[98]:6.2f};"
                    f" between chunks {median(gaps):+6.2f} ms, p99 {quantiles(gaps, n=100)[98]:+6.2f}"
                    + (f"; {(most - before) / args.streams / 1024:.1f} KB a stream" if watched and not repeat else ""),
                    flush=True,
                )
    finally:
        stop(processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
