"""Eight pictures in one request: how long encoding takes with two encoders on two cores, against one of them.

python -m benchmarks.encode.fanout --repeats 8

Two routers stand before the same workers, one of them knowing one encoder only; their requests take turns, so that both
see the same machine, and each is compared with its neighbour. Ends with 1 when two encoders take more than 0.6 of one's
time, at the median. Two encoders need both cores: on a busy machine they gain less.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from statistics import median

from benchmarks.encode.deployment import deployed, look, noise, until_ready
from tercet.http.client import Client
from tercet.router.app import Router
from tercet.router.config import RouterConfig

PICTURES = 8
TARGET = 0.6


async def measure(repeats: int, seed: int) -> float:
    """Print the times of the encode legs each way; return the median ratio of neighbours."""
    rng = random.Random(seed)
    client = Client()
    async with deployed("2E1A", ("cpu:0", "cpu:1")) as deployment:
        urls = deployment.worker_urls
        one = Router(RouterConfig(port=0, workers=(urls["worker-0"],), encode=(urls["encode-0"],)))
        await one.start()
        routers = {1: f"http://127.0.0.1:{one.port}", 2: deployment.url}
        times: dict[int, list[float]] = {1: [], 2: []}
        try:
            for url in routers.values():
                await until_ready(client, url)
                await look(client, url, [noise(rng)], "warm?")
            for _ in range(repeats):
                for count, url in routers.items():
                    seen = await look(client, url, [noise(rng) for _ in range(PICTURES)], "what?")
                    assert seen.headers["x-tercet-cache"] == f"miss={PICTURES}", seen.headers
                    times[count].append(seen.timing["encode-leg"])
        finally:
            await client.close()
            await one.close(1.0)
    ratio = median(second / first for first, second in zip(times[1], times[2], strict=True))
    for count, values in times.items():
        print(f"{count} encoder(s): best {min(values):.0f} ms, median {median(values):.0f} ms for {PICTURES} pictures")
    print(f"ratio {ratio:.2f}, target {TARGET} or less")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    return 0 if asyncio.run(measure(arguments.repeats, arguments.seed)) <= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
