"""CPU time of the whole router a request, beside a bare relay and other routers, in one run.

`python -m benchmarks.router.router_cost [--peers FOLDER] [--repeats 3] [--loads 'whole answers;1000 streams']`

`relay` does nothing but relay; `replicated` (two workers; `x3`: by three processes and their main one, all counted) and
`pd` (one prefill, one decode worker: two legs a request)
are the router with all that it has by default: prefix index, conversations, histograms, records of requests, deadlines,
breakers. With `--peers`, a folder with the commands `vllm-router` and `sglang-router` (`python -m venv FOLDER &&
FOLDER/bin/pip install vllm-router==0.1.17 sglang-router==0.3.2`; pass FOLDER/bin), these stand before the same
workers: with round robin, which costs them least and keeps nothing of prompts, and vllm-router also with the policy
that it has when nobody chooses one, `cache_aware`, which is its prefix index. Ratios are taken against both.

Printed is CPU time (user + system of all threads, as the scheduler counted it) by request. Runs are interleaved; what
is compared are ratios within one round: their median and range.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil
import uvloop
from benchmarks.router.backend import Load, run_load, serve_workers
from benchmarks.router.passthrough import serve_ours

from tercet.core.stage import Mode
from tercet.http.client import ClientError
from tercet.router.app import run
from tercet.router.config import RouterConfig

LOADS = (
    Load("128 streams, 10 ms a chunk, 10 tokens", 128, 3, 10, 0.01),
    Load("128 streams, 10 ms a chunk, 2000 tokens", 128, 3, 2000, 0.01),
    Load("1000 streams, 100 ms a chunk, 10 tokens", 1000, 1, 10, 0.1),
    Load("1000 streams, 100 ms a chunk, 2000 tokens", 1000, 1, 2000, 0.1),
    Load("whole answers, 10 tokens", 16, 200, 10, None),
    Load("whole answers, 2000 tokens", 16, 200, 2000, None),
)
BASES = {
    "relay": ("vllm-router", "vllm-router cache_aware"),
    "replicated": ("vllm-router", "vllm-router cache_aware"),
    "replicated x3": ("replicated",),
    "pd": ("vllm-router pd", "vllm-router pd cache_aware"),
}
"""Against which routers a ratio is taken."""


def role(name: str, port: int, base: int) -> int:
    """Be one of the processes measured."""
    first, second = (f"http://127.0.0.1:{base + i}" for i in (0, 1))
    if name == "workers":
        uvloop.run(serve_workers([base, base + 1]))
    if name == "relay":
        uvloop.run(serve_ours(port, first))
    if name == "pd":
        return run(RouterConfig(mode=Mode.PD, port=port, prefill=(first,), decode=(second,)))
    processes = int(name.partition(" x")[2] or 1)
    return run(RouterConfig(mode=Mode.REPLICATED, port=port, workers=(first, second), processes=processes))


def commands(base: int, peers: Path | None) -> dict[str, list[str]]:
    """Return the command lines of what is measured; {port} is still to be filled in."""
    urls = [f"http://127.0.0.1:{base + i}" for i in (0, 1)]
    own = [sys.executable, "-m", "benchmarks.router.router_cost", "--base", str(base), "--port", "{port}", "--role"]
    found = {name: [*own, name] for name in ("relay", "replicated", "replicated x3", "pd")}
    if peers is not None:
        vllm = [str(peers / "vllm-router"), "--host", "127.0.0.1", "--port", "{port}"]
        apart = ["--vllm-pd-disaggregation", "--prefill", urls[0], "--decode", urls[1]]
        sglang = [str(peers / "sglang-router"), "launch", "--host", "127.0.0.1", "--port", "{port}"]
        metrics = ["--prometheus-port"]
        found |= {
            "vllm-router": [*vllm, "--policy", "round_robin", *metrics, str(base + 101), "--worker-urls", *urls],
            "vllm-router cache_aware": [
                *vllm,
                "--policy",
                "cache_aware",
                *metrics,
                str(base + 102),
                "--worker-urls",
                *urls,
            ],
            "vllm-router pd": [*vllm, "--policy", "round_robin", *metrics, str(base + 103), *apart],
            "vllm-router pd cache_aware": [*vllm, "--policy", "cache_aware", *metrics, str(base + 104), *apart],
            "sglang-router": [*sglang, "--policy", "round_robin", *metrics, str(base + 105), "--worker-urls", *urls],
        }
    return found


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes: all are told before any is waited for."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(30)


def start(command: list[str], port: int) -> subprocess.Popen[bytes]:
    """Start a process and return when it answers a request."""
    filled = [word.replace("{port}", str(port)) for word in command]
    process = subprocess.Popen(filled, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        try:
            uvloop.run(run_load(port, Load("", 1, 1, 10, None), ""))
            return process
        except (ClientError, RuntimeError):
            time.sleep(0.2)
    process.kill()
    raise SystemExit(f"this did not start: {' '.join(filled)}")


def cpu_ns(pid: int) -> int:
    """Return how long the threads of a process and of its children ran on a CPU."""
    pids = (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True)))
    paths = (path for each in pids for path in Path(f"/proc/{each}/task").glob("*/schedstat"))
    return sum(int(path.read_text().split()[0]) for path in paths)


def measure(pid: int, port: int, load: Load, salt: str) -> float:
    """Return the microseconds of CPU that a process spends on one request."""
    before = cpu_ns(pid)
    count: int = uvloop.run(run_load(port, load, salt))
    return (cpu_ns(pid) - before) / count / 1e3


def show(load: Load, costs: dict[str, list[float]]) -> None:
    """Print what each cost, and the ratios."""
    print(f"\n{load.name}")
    for name, values in costs.items():
        line = f"  {name:26} {median(values):7.0f} us"
        for base in BASES.get(name, ()):
            if base in costs:
                ratios = [own / other for own, other in zip(values, costs[base], strict=True)]
                line += f"   {median(ratios):.2f} x {base} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line, flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="a folder with the commands vllm-router and sglang-router")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--port", type=int, default=18600)
    parser.add_argument("--loads", default="", help="words, separated by semicolons: only loads that hold one of them")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return role(args.role, args.port, args.base)
    found = commands(args.port, args.peers)
    workers = [sys.executable, "-m", "benchmarks.router.router_cost", "--role", "workers", "--base", str(args.port)]
    processes = [start(workers, args.port)]
    try:
        ports = {name: args.port + 2 + i for i, name in enumerate(found)}
        pids: dict[str, int] = {}
        for name, command in found.items():
            processes.append(start(command, ports[name]))
            pids[name] = processes[-1].pid
        loads = [load for load in LOADS if any(word in load.name for word in args.loads.split(";"))]
        for load in loads:
            costs: dict[str, list[float]] = {name: [] for name in pids}
            for repeat in range(args.repeats):
                for name in list(costs):
                    try:
                        costs[name].append(measure(pids[name], ports[name], load, f"{name}{repeat}"))
                    except (ClientError, RuntimeError) as error:
                        print(f"{name} failed and is left out: {error}", file=sys.stderr, flush=True)
                        del costs[name]
            show(load, costs)
    finally:
        stop(processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
