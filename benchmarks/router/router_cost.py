"""CPU time of the whole router, beside a bare relay and any other router, in one run.

`python -m benchmarks.router.router_cost [--streams 128] [--rounds 3] [--repeats 3] [--command '...']`

A back end that speaks enough of a worker's protocol emits 64 chunks 10 ms apart, or one short JSON answer. Printed is
each process's CPU time (user + system, read from the OS) per request: `relay` does nothing but relay; `aggregated`
and `pd` are the router in these modes (pd: two legs a request, with a ticket of 1,000 token ids); `--command` is
another router's command line, with {port} and {upstream}. Runs are interleaved and the median is taken: neighbours
make noise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import subprocess
import sys
import time
from statistics import median

import uvloop
from benchmarks.router.passthrough import CHUNKS, EVENT, GAP_S, STREAM, WHOLE, load, measure, serve_ours

from tercet.core.stage import Mode
from tercet.http.client import ClientError
from tercet.http.server import Request, Responder, Server
from tercet.router.app import run
from tercet.router.config import RouterConfig

USAGE = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
ANSWER = {
    "id": "cmpl-1",
    "object": "text_completion",
    "model": "m",
    "choices": [{"index": 0, "text": "word", "finish_reason": "length"}],
    "usage": USAGE,
}
TICKET = {"do_remote_prefill": True, "ticket_id": "t", "prompt_token_ids": list(range(1000)), "addresses": {"shm": {}}}
FIXED = {
    "/ready": {"ready": True, "engines": [{"rank": 0, "engine_id": "e", "ready": True}]},
    "/v1/models": {"object": "list", "data": [{"id": "m", "object": "model"}]},
    "/kv/release": {},
}
HEADERS = [("X-Tercet-Prompt-Tokens", "40"), ("X-Tercet-Cached-Tokens", "0"), ("Server-Timing", "queue;dur=0.10")]


async def worker(request: Request, responder: Responder) -> None:
    """Answer as a worker would, at no cost."""
    if b'"do_remote_decode":true' in request.body:
        await responder.send(200, json.dumps({**ANSWER, "kv_transfer_params": TICKET}).encode(), headers=HEADERS)
    elif b'"stream":true' in request.body:
        responder.start(200, headers=HEADERS)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(CHUNKS):
            responder.write(EVENT)
            due += GAP_S
            await asyncio.sleep(due - loop.time())
        responder.write(b"data: [DONE]\n\n")
    else:
        data = FIXED.get(request.path, ANSWER if request.body else {"status": "ok"})
        await responder.send(200, json.dumps(data).encode(), headers=HEADERS)


async def serve_worker(port: int) -> None:
    """Serve until killed."""
    await Server(worker, port=port).start()
    await asyncio.Event().wait()


def role(name: str, port: int, base: int) -> int:
    """Be one of the processes measured."""
    if name == "worker":
        uvloop.run(serve_worker(port))
    if name == "relay":
        uvloop.run(serve_ours(port, f"http://127.0.0.1:{base}"))
    first, second = (f"http://127.0.0.1:{base + i}" for i in (0, 1))
    if name == "pd":
        return run(RouterConfig(mode=Mode.PD, port=port, prefill=(first,), decode=(second,)))
    return run(RouterConfig(mode=Mode.AGGREGATED, port=port, workers=(first,)))


def start(command: list[str], port: int) -> subprocess.Popen[bytes]:
    """Start a process and return when it answers a request."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            uvloop.run(load(port, WHOLE, 1, 1))
            return process
        except (ClientError, RuntimeError):
            time.sleep(0.2)
    process.kill()
    raise SystemExit(f"this did not start: {' '.join(command)}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--port", type=int, default=18600)
    parser.add_argument("--command", help="another router's command line, with {port} and {upstream}")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return role(args.role, args.port, args.base)

    def own(name: str, port: int) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.router.router_cost", "--role", name]
        return [*command, "--port", str(port), "--base", str(args.port)]

    ports = {name: args.port + 2 + i for i, name in enumerate(("relay", "aggregated", "pd"))}
    commands = {name: own(name, port) for name, port in ports.items()}
    if args.command:
        ports["other"] = args.port + 9
        commands["other"] = shlex.split(
            args.command.format(port=ports["other"], upstream=f"http://127.0.0.1:{args.port}")
        )
    processes = [start(own("worker", port), port) for port in (args.port, args.port + 1)]
    try:
        pids: dict[str, int] = {}
        for name, command in commands.items():
            processes.append(start(command, ports[name]))
            pids[name] = processes[-1].pid
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
        for _ in range(args.repeats):
            for name, pid in pids.items():
                stream = measure(pid, ports[name], STREAM, args.streams, args.rounds)
                costs[name].append((stream, measure(pid, ports[name], WHOLE, 16, 300)))
        print(f"CPU of the process: us a {CHUNKS}-chunk stream at {args.streams} streams | us a whole answer")
        for name, runs in costs.items():
            print(f"{name:12} {median(r[0] for r in runs):6.0f} | {median(r[1] for r in runs):6.1f}")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
