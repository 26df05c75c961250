"""Does smollm2-vision answer right through the full server? Colour and shape of pictures it has never seen.

python -m benchmarks.encode.accuracy --pictures 200

Starts 1E1P1D in mode epd. Ends with 1 when fewer than 80% of the answers are right.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
from itertools import islice

from training.vision.evaluate import QUESTIONS, UNSEEN_SEED, Answered, share_right
from training.vision.pictures import Facts, picture_stream

from benchmarks.encode.deployment import deployed, look
from tercet.http.client import Client

TARGET = 0.8
MAX_TOKENS = 20
AT_ONCE = 8


def drawn(count: int) -> list[tuple[str, Facts]]:
    """Return pictures as data URIs, with what they show."""
    result = []
    for image, facts in islice(picture_stream(UNSEEN_SEED), count):
        out = io.BytesIO()
        image.save(out, "PNG")
        result.append(("data:image/png;base64," + base64.b64encode(out.getvalue()).decode(), facts))
    return result


async def ask(url: str, pictures: list[tuple[str, Facts]]) -> list[Answered]:
    """Ask every question about every picture."""
    client, limit = Client(), asyncio.Semaphore(AT_ONCE)

    async def one(picture: str, facts: Facts, kind: str) -> Answered:
        async with limit:
            return Answered(facts, kind, (await look(client, url, [picture], QUESTIONS[kind], MAX_TOKENS)).text)

    try:
        return await asyncio.gather(*(one(picture, facts, kind) for picture, facts in pictures for kind in QUESTIONS))
    finally:
        await client.close()


async def measure(count: int) -> float:
    """Print the share of right answers by question; return that of all."""
    async with deployed("1E1P1D", ("cpu:0", "cpu:1"), "smollm2-vision") as deployment:
        answered = await ask(deployment.url, drawn(count))
    for kind, question in QUESTIONS.items():
        print(f"{question:30} {share_right(answered, kind):.1%} of {count} right")
    return sum(answer.right for answer in answered) / len(answered)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    share = asyncio.run(measure(parser.parse_args().pictures))
    print(f"{share:.1%} right, target {TARGET:.0%} or more")
    return 0 if share >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
