"""8P+8D data-parallel ranks on virtual GPUs in real time: answers, balance over ranks, and TPOT against the oracle's.

python -m benchmarks.ranks.run                    # 100 prompts of 2000 tokens in and out, 32 at once: a minute
python -m benchmarks.ranks.run --scale 0.1

Serves examples/eight-plus-eight-ranks, runs `tercet bench` against its router, and reads the workers' metrics. Ends
with 1 when a request failed, when a rank had over 1.15 times the mean's tokens, or when TPOT is over 10% above what the
latency model says for a rank's share of the batch. When steps end late (p99 over 2 ms), the machine was measured and
not the design: it says so, and TPOT does not count.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tercet.core.stage import Stage
from tercet.latency.registry import oracle_for
from tercet.launch.topology_file import load_topology
from tercet.results.file import read

EXAMPLE = Path(__file__).parents[2] / "examples" / "eight-plus-eight-ranks" / "topology.yaml"
REQUESTS, CONCURRENCY, TOKENS = 100, 32, 2000
BALANCE, TPOT_OVER, LAG_S = 1.15, 1.10, 0.002
PAIRS_S = 60.0
_SAMPLE = re.compile(r"^(?P<name>[a-z_:]+)\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


def tercet(*arguments: str) -> None:
    """Run a command of Tercet's; its output is this program's."""
    subprocess.run([sys.executable, "-m", "tercet", *arguments], check=True)


def samples(url: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Return labels and values of one metric."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = [match for match in _SAMPLE.finditer(text) if match["name"] == name]
    return [(dict(re.findall(r'(\w+)="([^"]*)"', match["labels"])), float(match["value"])) for match in found]


def balance(url: str, name: str) -> float:
    """Return the busiest rank's tokens over the mean's."""
    tokens = [value for _, value in samples(url, name)]
    return max(tokens) * len(tokens) / sum(tokens)


def lag_p99(urls: Sequence[str]) -> float:
    """Return the bound, in seconds, that 99% of all ranks' steps kept."""
    below: dict[float, float] = {}
    for url in urls:
        for labels, value in samples(url, "tercet:virtual_step_lag_seconds_bucket"):
            bound = float(labels["le"])
            below[bound] = below.get(bound, 0.0) + value
    return min(bound for bound, count in below.items() if count >= 0.99 * below[float("inf")])


def until_paired(router: str) -> None:
    """Wait until a request has crossed every pair: before, only some of them are used."""
    deadline = time.monotonic() + PAIRS_S
    while True:
        with urllib.request.urlopen(f"{router}/status", timeout=10) as answer:
            open_pairs = [pair["pair"] for pair in json.load(answer)["pairs"] if not pair["ready"]]
        if not open_pairs:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"not proved within {PAIRS_S:g} s: {', '.join(open_pairs)}")
        time.sleep(0.5)


def measure(scale: float) -> bool:
    """Run it, print the figures, and return whether all targets were met."""
    topology = load_topology(EXAMPLE)
    router = f"http://127.0.0.1:{topology.router.port}"
    tercet("serve", str(EXAMPLE), "--detach")
    try:
        until_paired(router)
        with TemporaryDirectory() as folder:
            load = ("--workload", f"{TOKENS}/{TOKENS}", "--concurrency", str(CONCURRENCY), "--scale", f"{scale:g}")
            tercet("bench", router, *load, "--num-requests", str(REQUESTS), "--output", folder)
            [file] = Path(folder).glob("*.json")
            results = read(file)
        with urllib.request.urlopen(f"{router}/status", timeout=10) as answer:
            workers = json.load(answer)["workers"]
        prefill, decode = (next(w["url"] for w in workers if s in w["stages"]) for s in (Stage.PREFILL, Stage.DECODE))
        shares = balance(prefill, "vllm:prompt_tokens_total"), balance(decode, "vllm:generation_tokens_total")
        lag = lag_p99((prefill, decode))
    finally:
        tercet("stop", topology.name)
    requests = [request for run in results.runs for request in run.requests]
    right = sum(request.ok for request in requests)
    times = [request.tpot_ms for request in requests if request.tpot_ms is not None]
    tpot, tokens = sum(times) / len(times), TOKENS * scale
    oracle = oracle_for("llama-3.1-8b", "h100").oracle.decode(CONCURRENCY // topology.workers[1].ranks, tokens * 1.5)
    print(f"answers {right} of {len(requests)}; busiest rank over the mean: P {shares[0]:.3f}, D {shares[1]:.3f}")
    print(f"TPOT {tpot:.2f} ms, of the oracle {oracle:.2f}: {tpot / oracle - 1:+.1%}")
    print(f"99% of steps ended {lag * 1e3:g} ms late or less")
    in_time = lag <= LAG_S
    if not in_time:
        print(f"steps were late by more than {LAG_S * 1e3:g} ms: this was the machine's speed, not the design's")
    return right == len(requests) and max(shares) <= BALANCE and (not in_time or tpot <= oracle * TPOT_OVER)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 2000 tokens in and out")
    return 0 if measure(parser.parse_args().scale) else 1


if __name__ == "__main__":
    raise SystemExit(main())
