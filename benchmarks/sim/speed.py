"""How fast the simulator is, whether its memory is flat, and how its cost grows with workers.

python -m benchmarks.sim.speed                     # W1 on 1P1D by load
python -m benchmarks.sim.speed --growth            # to 200,000 requests, and to 256 workers
"""

from __future__ import annotations

import argparse
import resource
import time
from multiprocessing import get_context

from tercet.latency.registry import oracle_for
from tercet.latency.stack import stack_named
from tercet.sim.fleet import fleet_of
from tercet.sim.simulate import simulate
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import workload_from_name

TARGET = 400


def measure(form: str, qps: float, requests: int) -> float:
    """Simulate W1, print what it cost, and return requests a second of processor time."""
    fleet = fleet_of(form, oracle_for("llama-3.1-8b", "h100"), stack=stack_named("vllm"))
    traffic = TrafficSpec(workload_from_name("W1"), qps, requests)
    begun = time.process_time()
    figures = simulate(fleet, traffic, records=False).figures
    took = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate, tokens = requests / took, figures.output_tokens / took
    print(
        f"{form:9} {qps:6g}/s {requests:7} requests  {took:7.1f} s  {rate:6.0f} requests/s  {tokens:8.0f} output "
        f"tokens/s  {took * 1e6 / (figures.output_tokens + figures.prompt_tokens):5.2f} us a token peak {peak:.0f} MiB",
        flush=True,
    )
    return rate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--growth", action="store_true", help="many requests, and many workers")
    if parser.parse_args().growth:
        cases = [("1P1D", 16, requests) for requests in (1000, 10_000, 100_000, 200_000)]
        cases += [(f"{pairs}P{pairs}D", 16 * pairs, 500 * pairs) for pairs in (1, 8, 32, 128)]
        for case in cases:  # each in a process of its own: a peak is the process's, not the run's
            process = get_context("spawn").Process(target=measure, args=case)
            process.start()
            process.join()
        return 0
    return int(min(measure("1P1D", qps, 4000) for qps in (4, 16, 32)) < TARGET)


if __name__ == "__main__":
    raise SystemExit(main())
