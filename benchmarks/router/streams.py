"""What a router adds to latency, and what it needs of memory, at 1,000 streams.

`python -m benchmarks.router.streams [--streams 1000] [--gap-ms 100] [--words 10] [--rounds 3] [--peers FOLDER/bin]`

In each round the same client asks a worker straight, and through each router in turn, for as long as one stream lasts
once all of them are going: a new one begins where one ends, and their beginnings are spread evenly. Every chunk says
when it was sent, and the kernel when it arrived, so that neither worker nor client is in the times; they have one core,
the router has the other. Printed are, of all rounds together, median and 99th percentile of

- the way of a request to the worker and of the first chunk back; in P/D modes to both workers, without the time from
  the arrival of the prefill leg there to its answer, which is the worker's own,
- the way of every later chunk,
- how much longer than it was sent the time between two chunks was,

then by how much each exceeds what it is straight in the same round (median and range over the rounds), and how much of
the time the router was ready to run and had to wait for its core: what else the machine does is in the router's times.
Where it does much, `chrt -f 1 python -m benchmarks.router.streams` (as root) puts all that is measured before it.

Memory is what the resident set of a router that has just begun grows by from half of the streams to all, by stream, but
for what new prompts leave in it (the prefix index, above all), which is seen in the growth while half of the streams go
on. The connections' buffers in the kernel are not in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import sleep

import psutil
from benchmarks.router.router_cost import commands, start, stop
from benchmarks.router.stamped import Streams, Times

STRAIGHT = "straight"
ROUTERS = ("relay", "replicated", "pd", "vllm-router", "vllm-router pd")


@dataclass(slots=True)
class Seen:
    """What was measured of one way to the worker: times by round, and the share of the time that its router waited for
    a core."""

    times: list[Times] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)


def pinned(command: list[str], core: int | None) -> list[str]:
    """Return a command that runs on one core."""
    return command if core is None else ["taskset", "-c", str(core), *command]


def waited_ns(pid: int) -> int:
    """Return how long threads of a process were ready to run and did not."""
    return sum(int(path.read_text().split()[1]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def figures(times: Times) -> list[float]:
    """Return median and 99th percentile of each kind of time."""
    found = []
    for values in (times.firsts, times.delays, times.gaps):
        found += [median(values), quantiles(values, n=100)[98]]
    return found


def added(one: Seen, straight: Seen) -> list[str]:
    """Return by how much each figure exceeds what it is straight in the same round: median and range."""
    rounds = [
        [own - base for own, base in zip(figures(times), figures(others), strict=True)]
        for times, others in zip(one.times, straight.times, strict=True)
    ]
    return [f"{median(v):+.3f} ({min(v):+.3f} to {max(v):+.3f})" for v in zip(*rounds, strict=True)]


def show(seen: dict[str, Seen]) -> None:
    """Print what each way took, and what its router added."""
    titles = f"{'first byte':^16} {'chunk':^16} {'between chunks':^16}"
    print(f"\n{'milliseconds':16} {titles}   {'waited':>6}\n{'':16}" + " {:>7} {:>8}".format("median", "p99") * 3)
    for name, one in seen.items():
        rows = list(zip(*map(figures, one.times), strict=True))
        line = " ".join(
            f"{median(p50):7.3f} {median(p99):8.3f}" for p50, p99 in zip(rows[::2], rows[1::2], strict=True)
        )
        print(f"{name:16} {line}   {median(one.waited) * 100 if one.waited else 0:5.1f}%")
    print("\nadded, median over the rounds (lowest to highest)")
    for name, one in seen.items():
        if name != STRAIGHT:
            print(f"{name:16} " + "  ".join(added(one, seen[STRAIGHT])), flush=True)


def memory(pid: int, port: int, args: argparse.Namespace) -> tuple[float, float]:
    """Return the kilobytes that a stream more costs a router, and those that every new prompt leaves there."""
    router = psutil.Process(pid)
    streams = Streams(port, args.streams // 2, args.gap_ms, args.words, "memory/")
    seen: list[tuple[int, int]] = []
    for lengths in (1.5, 2.0, 2.0):
        if len(seen) == 2:
            streams.grow(args.streams)
        streams.run(lengths * streams.length_s)
        seen.append((int(router.memory_info().rss), streams.requests))
    streams.close()
    (first, asked), (before, more), (after, most) = seen
    left = (before - first) / (more - asked)
    return (after - before - left * (most - more)) / (args.streams - args.streams // 2) / 1024, left / 1024


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--gap-ms", type=int, default=100)
    parser.add_argument("--words", type=int, default=10, help="of a prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="a folder with the commands vllm-router and sglang-router")
    parser.add_argument("--only", nargs="+", default=ROUTERS, help=f"of {', '.join(ROUTERS)}")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--port", type=int, default=18700)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    if ours is not None:
        os.sched_setaffinity(0, {ours})
    found = {name: line for name, line in commands(args.port, args.peers).items() if name in args.only}
    worker = [sys.executable, "-m", "benchmarks.router.paced", "--ports", str(args.port), str(args.port + 1)]
    processes = [start(worker, args.port)]
    routers: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}
    seen = {name: Seen() for name in (STRAIGHT, *found)}
    try:
        for i, (name, command) in enumerate(found.items()):
            port = args.port + 2 + i
            routers[name] = port, start(pinned(command, theirs), port)
            processes.append(routers[name][1])
        sleep(2)
        if not args.no_memory:
            for name, (port, process) in routers.items():
                stream, left = memory(process.pid, port, args)
                print(f"{name:16} {stream:5.1f} KB a stream, {left:.2f} KB left by a prompt", flush=True)
        for turn in range(args.rounds):
            for name, one in seen.items():
                port, router = routers.get(name, (args.port, None))
                streams = Streams(port, args.streams, args.gap_ms, args.words, f"{name}{turn}/")
                streams.run(streams.length_s * 1.1)
                before = 0 if router is None else waited_ns(router.pid)
                one.times.append(streams.run(streams.length_s, counted=True))
                if router is not None:
                    one.waited.append((waited_ns(router.pid) - before) / 1e9 / streams.length_s)
                streams.close()
                sleep(1)
        if args.rounds:
            show(seen)
    finally:
        stop(processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
