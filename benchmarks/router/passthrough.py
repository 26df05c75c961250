"""CPU time of a bare pass-through proxy, ours against aiohttp's, in one run.

`python benchmarks/router/passthrough.py [--streams 128] [--rounds 3] [--peer aiohttp] [--command '...']...`

A back end emits 64 chunks 10 ms apart; 128 clients keep that many streams open through the proxy. What is printed is
the proxy process's CPU time (user + system, read from the OS) per request, and the same for non-streamed answers.
Yardsticks: `--peer aiohttp` (`pip install aiohttp` first), the usual choice, and any router's own command line, e.g.
`--command 'vllm-router --host 127.0.0.1 --port {port} --worker-urls {upstream} --policy round_robin'`.
Runs are interleaved (ours, peer, ours, peer...): neighbours make noise. Printed are the medians of `--repeats`, and
those of the ratios within each, with their range.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil
import uvloop

from tercet.http.client import Client, ClientError
from tercet.http.server import Request, Responder, Server
from tercet.http.wire import end_to_end

CHUNKS = 64
GAP_S = 0.01
EVENT = b'data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" word","logprobs":null}]}\n\n'
PATH = "/v1/completions"
WHOLE = b'{"model":"m","prompt":"' + b"word " * 40 + b'","max_tokens":64,"stream":false}'
STREAM = WHOLE.replace(b"false", b"true")


async def backend(request: Request, responder: Responder) -> None:
    """Answer a request to stream with 64 chunks, everything else with one short JSON body."""
    if b'"stream":true' not in request.body:
        await responder.send(200, b'{"choices":[{"text":"word"}],"usage":{"prompt_tokens":40}}')
        return
    responder.start(200)
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in range(CHUNKS):
        responder.write(EVENT)
        due += GAP_S
        await asyncio.sleep(due - loop.time())
    responder.write(b"data: [DONE]\n\n")


async def serve_backend(port: int) -> None:
    await _serve(Server(backend, port=port))


async def serve_ours(port: int, upstream: str) -> None:
    """A relay and nothing else."""
    client = Client()

    async def proxy(request: Request, responder: Responder) -> None:
        response = await client.request(
            request.method, upstream + request.target, headers=[("Content-Type", "application/json")], body=request.body
        )
        passed = [pair for pair in end_to_end(response.headers) if pair[0] != "content-type"]
        await response.relay(responder, headers=passed, tail_bytes=2048)

    await _serve(Server(proxy, port=port))


async def serve_aiohttp(port: int, upstream: str) -> None:
    """The same with aiohttp's server and client."""
    from aiohttp import ClientSession, TCPConnector, web  # type: ignore[import-not-found,unused-ignore]

    session = ClientSession(connector=TCPConnector(limit=0))

    async def proxy(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Content-Type": "application/json"}
        async with session.request(request.method, upstream + request.path, data=body, headers=headers) as answer:
            out = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]})
            await out.prepare(request)
            async for piece in answer.content.iter_any():
                await out.write(piece)
            await out.write_eof()
            return out

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", proxy)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


async def _serve(server: Server) -> None:
    await server.start()
    await asyncio.Event().wait()


async def load(port: int, body: bytes, streams: int, rounds: int) -> int:
    """Keep `streams` requests going, `rounds` each; returns how many were answered, each checked for length."""
    client = Client()
    url = f"http://127.0.0.1:{port}{PATH}"
    expected = len(EVENT) * CHUNKS + len(b"data: [DONE]\n\n") if body is STREAM else None

    async def one() -> int:
        for _ in range(rounds):
            response = await client.request("POST", url, headers=[("Content-Type", "application/json")], body=body)
            got = await response.read()
            if response.status != 200 or (expected is not None and len(got) != expected):
                raise RuntimeError(f"a wrong answer: {response.status}, {len(got)} bytes")
        return rounds

    counts = await asyncio.gather(*(one() for _ in range(streams)))
    await client.close()
    return sum(counts)


def measure(pid: int, port: int, body: bytes, streams: int, rounds: int) -> float:
    """Return the microseconds of CPU that process `pid` spends on one request."""
    before = psutil.Process(pid).cpu_times()
    count: int = uvloop.run(load(port, body, streams, rounds))
    after = psutil.Process(pid).cpu_times()
    return ((after.user - before.user) + (after.system - before.system)) / count * 1e6


def _start(command: list[str], port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        try:
            uvloop.run(load(port, WHOLE, 1, 1))
            return process
        except (ClientError, RuntimeError):
            time.sleep(0.2)
    process.kill()
    raise SystemExit(f"this did not start: {' '.join(command)}")


def _role(role: str, port: int, upstream: str) -> list[str]:
    return [sys.executable, str(Path(__file__)), "--role", role, "--port", str(port), "--upstream", upstream]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--port", type=int, default=18500)
    parser.add_argument("--peer", choices=["aiohttp"])
    parser.add_argument("--command", action="append", default=[], help="a router's, with {port} and {upstream}")
    parser.add_argument("--role", choices=["backend", "ours", "aiohttp"], help=argparse.SUPPRESS)
    parser.add_argument("--upstream", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "backend":
        uvloop.run(serve_backend(args.port))
    elif args.role == "ours":
        uvloop.run(serve_ours(args.port, args.upstream))
    elif args.role == "aiohttp":
        uvloop.run(serve_aiohttp(args.port, args.upstream))
    else:
        upstream = f"http://127.0.0.1:{args.port}"
        commands, ports = {"ours": _role("ours", args.port + 1, upstream)}, {"ours": args.port + 1}
        if args.peer:
            ports[args.peer] = args.port + 2
            commands[args.peer] = _role(args.peer, args.port + 2, upstream)
        for port, command in enumerate(args.command, args.port + 3):
            words = shlex.split(command.format(port=port, upstream=upstream))
            commands[Path(words[0]).name], ports[Path(words[0]).name] = words, port
        compare(args, commands, ports)


def _against(ours: list[float], it: list[float]) -> str:
    ratios = [a / b for a, b in zip(ours, it, strict=True)]
    return f"{median(it):6.1f} ({median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f})"


def compare(args: argparse.Namespace, commands: dict[str, list[str]], ports: dict[str, int]) -> None:
    """Start everything, measure in turn, print."""
    processes = [_start(_role("backend", args.port, ""), args.port)]
    try:
        pids: dict[str, int] = {}
        for name, command in commands.items():
            processes.append(_start(command, ports[name]))
            pids[name] = processes[-1].pid
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(args.repeats):
            for name, pid in pids.items():
                stream = measure(pid, ports[name], STREAM, args.streams, args.rounds)
                costs[name].append((stream, measure(pid, ports[name], WHOLE, 16, 1500)))
        print(f"CPU of the proxy: us a {CHUNKS}-chunk stream at {args.streams} streams | us a whole answer (ours / it)")
        for name, runs in costs.items():
            print(
                f"{name:14}",
                " | ".join(_against([own[i] for own in costs["ours"]], [it[i] for it in runs]) for i in (0, 1)),
            )
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


if __name__ == "__main__":
    main()
