"""What is done to workers, one at a time: the fleet always has another of each kind, so that no request need fail."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from random import Random
from time import monotonic
from typing import Any

from benchmarks.chaos.workers import ChaosFleet, ChaosWorker

MODES = ("aggregated", "replicated", "pd", "ppd", "epd", "eppd")
RECOVERY_S = 180.0


async def kill(worker: ChaosWorker, random: Random) -> None:
    """Everything of it dies at once; after a while it is started again."""
    await worker.end(signal.SIGKILL)
    await asyncio.sleep(random.uniform(0, 2))
    worker.start()


async def kill_engine(worker: ChaosWorker, random: Random) -> None:
    """Its engine dies; its front starts another."""
    worker.send(signal.SIGKILL, engines_only=True)


async def stop(worker: ChaosWorker, random: Random) -> None:
    """It stands still, with its connections open, and goes on as if nothing had been."""
    worker.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(random.uniform(0.5, 6))
    finally:
        worker.send(signal.SIGCONT)


async def slow(worker: ChaosWorker, random: Random) -> None:
    """Everything to and from it is late."""
    worker.proxy.delay_s = random.uniform(0.05, 0.3)
    await asyncio.sleep(random.uniform(1, 4))


async def restart(worker: ChaosWorker, random: Random) -> None:
    """It is asked to end, and started again."""
    await worker.end()
    worker.start()


async def cut(worker: ChaosWorker, random: Random) -> None:
    """Its connections break, several times."""
    for _ in range(random.randrange(1, 6)):
        worker.proxy.cut()
        await asyncio.sleep(random.uniform(0, 0.5))


async def freeze(worker: ChaosWorker, random: Random) -> None:
    """The network lets nothing through, and says nothing."""
    worker.proxy.freeze(True)
    await asyncio.sleep(random.uniform(0.5, 6))


async def refuse(worker: ChaosWorker, random: Random) -> None:
    """New connections are closed at once, old ones broken."""
    worker.proxy.refusing = True
    worker.proxy.cut()
    await asyncio.sleep(random.uniform(0.5, 3))


FAULTS = (kill, kill_engine, stop, slow, restart, cut, freeze, refuse)


Fault = Callable[[ChaosWorker, Random], Coroutine[Any, Any, None]]


async def torment(fleet: ChaosFleet, seed: int, seconds: float, done: Counter[str]) -> None:
    """Change the mode and do something to a worker, again and again, for so long. Each comes once
    before any comes twice; between two the fleet becomes whole. Raises TimeoutError when it does not."""
    random = Random(seed)
    faults: list[Fault] = []
    modes: list[str] = []
    victims: list[ChaosWorker] = []
    until = monotonic() + seconds
    while monotonic() < until:
        faults = faults or random.sample(FAULTS, len(FAULTS))
        modes = modes or random.sample(MODES, len(MODES))
        victims = victims or random.sample(fleet.workers, len(fleet.workers))
        fault, mode, worker = faults.pop(), modes.pop(), victims.pop()
        await fleet.get(f"{fleet.url}/mode/{mode}", "POST")
        await asyncio.sleep(random.uniform(0.2, 0.8))
        done[mode] += 1
        done[fault.__name__] += 1
        try:
            await fault(worker, random)
        finally:
            worker.proxy.heal()
        await asyncio.sleep(random.uniform(0.2, 1.0))
        await fleet.whole(RECOVERY_S)
