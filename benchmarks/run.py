"""Every benchmark that needs nothing but Tercet itself, one after another: `make bench`.

Those against a named peer (vLLM, a Rust router) need that peer installed: see each file's docstring.
"""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = [
    ["-m", "benchmarks.engine.steps"],
    ["-m", "benchmarks.vision.encode"],
    ["-m", "benchmarks.transports.reads"],
    ["-m", "benchmarks.handoff.ttft", "--transport", "shm"],
    ["benchmarks/worker/front_overhead.py"],
    ["-m", "benchmarks.router.router_cost"],
    ["-m", "benchmarks.bench.truth"],
    ["-m", "benchmarks.media.blocking"],
    ["-m", "benchmarks.encode.fanout"],
    ["-m", "benchmarks.encode.cache"],
    ["-m", "benchmarks.encode.accuracy"],
    ["-m", "benchmarks.ranks.run"],
    ["-m", "benchmarks.sim.speed"],
    ["-m", "benchmarks.planner_accuracy.run"],
]


def main() -> int:
    failed = []
    for arguments in BENCHMARKS:
        print(f"\n=== python {' '.join(arguments)}", flush=True)
        if subprocess.run([sys.executable, *arguments], check=False).returncode != 0:
            failed.append(arguments)
    for arguments in failed:
        print(f"missed its target: python {' '.join(arguments)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
