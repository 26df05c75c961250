"""How long a routing decision takes: 64 workers, a prefix index of 1,000,000 blocks.

`python -m benchmarks.router.decision [--workers 64] [--blocks 1000000] [--tokens 2000]`

The fleet's indexes are filled with prompts of 64 blocks, and prompts are then routed by `replicated` and, over half as
many prefill and decode workers each, by `pd`: new ones, ones of which a worker holds half, and later turns of known
conversations. Printed are median and 99th percentile in microseconds of CPU; exits with 1 when a median is above 50.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from statistics import median, quantiles
from time import thread_time_ns

from tercet.core.route import Route
from tercet.core.stage import ROLE_STAGES, Mode
from tercet.routing import events as e
from tercet.routing.facts import CHUNK_BYTES, RequestFacts, completion_facts
from tercet.routing.fleet import FleetState
from tercet.routing.modes import route
from tercet.routing.policy import Policy

TARGET_US = 50.0
PROMPT_BLOCKS = 64
DECISIONS = 2000
BYTES_PER_TOKEN = 4


def facts_of(text: str) -> RequestFacts:
    """Return the facts of a text prompt."""
    return completion_facts({"model": "m", "prompt": text}, None, 1 / BYTES_PER_TOKEN)


def text_of(name: str, size: int) -> str:
    """Return a text of `size` bytes that no other name begins like."""
    return (name + " word" * (size // 5 + 1))[:size]


def fleet_of(mode: Mode, workers: int, blocks: int) -> FleetState:
    """Return a fleet that serves, with full indexes."""
    letters = ["A"] * workers if mode is Mode.REPLICATED else ["P", "D"] * (workers // 2)
    fleet = FleetState(index_chunks=blocks // workers)
    urls = [f"http://10.0.{i // 250}.{i % 250}:8000" for i in range(workers)]
    for url, letter in zip(urls, letters, strict=True):
        fleet.apply(e.WorkerAdded(url, ROLE_STAGES[letter]))
        fleet.apply(e.ModelsListed(url, ("m",)))
        fleet.apply(e.RankHealth(url, True))
    for p in urls[0::2]:
        for d in urls[1::2]:
            fleet.apply(e.PairHealth(p, d, True))
    fleet.apply(e.ModeChanged(mode))
    for i, url in enumerate(urls):
        for prompt in range(blocks // workers // PROMPT_BLOCKS):
            facts = facts_of(text_of(f"{i}/{prompt}", PROMPT_BLOCKS * CHUNK_BYTES))
            fleet.apply(e.CacheStored(facts, url, facts.prompt_tokens))
    return fleet


def times(fleet: FleetState, mode: Mode, prompt: Callable[[int], RequestFacts]) -> list[float]:
    """Return how long each decision took, in microseconds; each one's request is under way for a while."""
    policy, taken = Policy(), list[float]()
    for i in range(DECISIONS):
        facts = prompt(i)
        began = thread_time_ns()
        found = route(mode, facts, fleet, policy)
        taken.append((thread_time_ns() - began) / 1e3)
        assert isinstance(found, Route)
        fleet.apply(e.Routed(str(i), found, facts))
        if i >= 256:
            fleet.apply(e.Finished(str(i - 256)))
    return taken


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=2000)
    args = parser.parse_args()
    size, slow = args.tokens * BYTES_PER_TOKEN, False

    def new(i: int) -> RequestFacts:
        return facts_of(text_of(f"new {i}", size))

    def half(i: int) -> RequestFacts:
        known = text_of(f"{i % args.workers}/{i % 100}", size // 2)
        return facts_of(known + text_of(f"/{i}", size // 2))

    def turn(i: int) -> RequestFacts:
        return facts_of(text_of(f"turn {i % 500}", size // 2) + text_of(f"/{i}", size // 2))

    for mode in (Mode.REPLICATED, Mode.PD):
        fleet = fleet_of(mode, args.workers, args.blocks)
        held = sum(len(fleet.index(address)) for address in fleet.ranks)
        print(f"{mode}: {args.workers} workers, {held} blocks; prompts of {args.tokens} tokens")
        for address in [a for a, rank in fleet.ranks.items() if rank.letter in "AD"][:1]:
            for i in range(500):
                first = facts_of(text_of(f"turn {i}", size // 2))
                fleet.apply(e.ConversationRecorded(first, address, first.prompt_tokens, 10))
        for name, prompt in (("new", new), ("half held", half), ("later turns", turn)):
            taken = times(fleet, mode, prompt)
            slow = slow or median(taken) > TARGET_US
            print(f"  {name:12} median {median(taken):6.1f} us, 99th percentile {quantiles(taken, n=100)[98]:6.1f} us")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
