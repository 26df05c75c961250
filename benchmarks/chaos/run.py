"""Mixed traffic in all modes while workers are killed, stopped, slowed, restarted and cut off.

    python -m benchmarks.chaos.run --minutes 20

Ends with 1 unless no request hung or got a wrong answer, none failed that another worker could have answered, no
block stayed behind, and the router's memory stayed flat.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic

from benchmarks.chaos.faults import RECOVERY_S, torment
from benchmarks.chaos.traffic import Clients, Tally, questions
from benchmarks.chaos.workers import LEASE_S, ChaosFleet

MEASURE_S = 2.0
FLAT = 1.10
FLAT_BYTES = 8 << 20
MAY_FAIL = frozenset({"ok", "left", "broken stream", "504"})
"""What may become of a request: a deadline is no reason to ask another worker, and after the first byte nobody is."""
KEPT = ("tercet:kv_blocks_in_use", "tercet:kv_blocks_held", "tercet:embedding_blocks_in_use")


@dataclass(slots=True)
class Report:
    """What came of it. `kept` are blocks still in use by worker, `memory` the router's resident bytes over time."""

    tally: Tally
    done: Counter[str]
    memory: list[int]
    kept: dict[str, float] = field(default_factory=dict)
    handoffs: dict[str, float] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Return what should not be."""
        bad = [f"{count} x {what}" for what, count in self.tally.outcomes.items() if what not in MAY_FAIL]
        bad += [f"{name} keeps {count:g} blocks" for name, count in self.kept.items() if count]
        if self.handoffs.get("handoff_leaks_total"):
            bad.append("the router lost sight of a handoff")
        third = len(self.memory) // 3
        if third >= 10:
            early, late = median(self.memory[third // 2 : third]), median(self.memory[-third:])
            if late > FLAT * early + FLAT_BYTES:
                bad.append(f"the router grew from {early / 1e6:.1f} to {late / 1e6:.1f} MB")
        return bad

    def lines(self) -> list[str]:
        """Return the report for people."""
        memory = self.memory or [0]
        return [
            "requests: " + ", ".join(f"{what} {count}" for what, count in self.tally.outcomes.most_common()),
            f"slowest: {self.tally.slowest_s:.1f} s",
            "done: " + ", ".join(f"{what} {count}" for what, count in sorted(self.done.items())),
            "router: " + ", ".join(f"{what} {count:g}" for what, count in self.handoffs.items()),
            f"memory: {memory[0] / 1e6:.1f} MB at first, at most {max(memory) / 1e6:.1f}, {memory[-1] / 1e6:.1f} last",
        ]


async def chaos(folder: Path, seconds: float, *, form: str, clients: int, pause_s: float, seed: int) -> Report:
    """Run for so long, then have everything heal, and look what stayed behind."""
    fleet = ChaosFleet(folder, form)
    memory: list[int] = []
    done: Counter[str] = Counter()
    try:
        await fleet.start("pd")
        whole = next(worker for worker in fleet.workers if worker.letter == "A")
        crowd = Clients(fleet.url, await questions(fleet.client, whole.url, Random(seed)), seed)
        crowd.start(clients, pause_s)
        tormentor = asyncio.create_task(torment(fleet, seed, seconds, done))
        while not tormentor.done():
            memory.append(fleet.router_bytes())
            await asyncio.wait({tormentor}, timeout=MEASURE_S)
        await tormentor
        await fleet.whole(RECOVERY_S)
        await crowd.close()
        report = Report(crowd.tally, done, memory)
        await _look(fleet, report)
        return report
    finally:
        await fleet.close()


async def _look(fleet: ChaosFleet, report: Report) -> None:
    """Note what workers keep once every lease is over, and what the router counted."""
    until = monotonic() + 3 * LEASE_S
    while True:
        for worker in fleet.workers:
            report.kept[worker.name] = sum([await fleet.metric(worker.url, name) for name in KEPT])
        if not any(report.kept.values()) or monotonic() > until:
            break
        await asyncio.sleep(0.2)
    for name in (
        *("retries_total", "breaker_opened_total", "releases_total", "handoff_expiries_total", "handoff_leaks_total"),
        *("in_flight", "waiting", "unaccepted_handoffs"),
    ):
        report.handoffs[name] = await fleet.metric(fleet.url, f"tercet:router_{name}")
    for name in ("in_flight", "waiting", "unaccepted_handoffs"):
        report.kept[f"router {name}"] = report.handoffs[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.1, help="mean seconds between a client's requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", default="EEPPDDAA")
    parser.add_argument("--logs", type=Path, default=None)
    given = parser.parse_args()
    folder = given.logs or Path(tempfile.mkdtemp(prefix="tercet-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    ran = chaos(
        folder, 60 * given.minutes, form=given.workers, clients=given.clients, pause_s=given.pause, seed=given.seed
    )
    report = asyncio.run(ran)
    print("\n".join([*report.lines(), *(f"  {words}" for words in report.tally.said)]))
    problems = report.problems()
    print(f"logs: {folder}" if problems else "nothing is wrong", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
