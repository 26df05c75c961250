"""The same picture a second time: how much sooner the answer begins, against the time that encoding took.

python -m benchmarks.encode.cache --repeats 10

Each picture is asked about twice, in other words each time: the prompt's prefix is no help. Ends with 1 when the second
answer, at the median, is not sooner by as much as the encode leg's time in the first one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from statistics import median

from benchmarks.encode.deployment import deployed, look, noise
from tercet.http.client import Client


async def measure(repeats: int, seed: int) -> bool:
    """Print the medians; return whether the gain is at least the encode leg."""
    rng = random.Random(seed)
    client = Client()
    rows: list[tuple[float, float, float]] = []
    async with deployed("1E1P1D", ("cpu:0", "cpu:1")) as deployment:
        try:
            await look(client, deployment.url, [noise(rng)], "warm?")
            for turn in range(repeats):
                picture = noise(rng)
                first = await look(client, deployment.url, [picture], f"{turn} what?")
                again = await look(client, deployment.url, [picture], f"{turn} which?")
                assert (first.headers["x-tercet-cache"], again.headers["x-tercet-cache"]) == ("miss=1", "held=1")
                rows.append((first.seconds * 1e3, again.seconds * 1e3, first.timing["encode-leg"]))
        finally:
            await client.close()
    gain_ms = median(first - again for first, again, _ in rows)
    leg_ms = median(leg for _, _, leg in rows)
    print(f"first {median(row[0] for row in rows):.0f} ms, again {median(row[1] for row in rows):.0f} ms")
    print(f"sooner by {gain_ms:.0f} ms; the encode leg took {leg_ms:.0f} ms")
    return bool(gain_ms >= leg_ms)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    return 0 if asyncio.run(measure(arguments.repeats, arguments.seed)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
