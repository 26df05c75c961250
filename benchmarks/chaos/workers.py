"""Workers on virtual GPUs, each behind a fault proxy, and the router before them: processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from benchmarks.chaos.proxy import FaultProxy
from tercet.http.client import Client, ClientError
from tercet.launch import child

SECRET = "c4" * 32
STAGES = {"E": "encode", "P": "encode,prefill", "D": "decode", "A": "encode,prefill,decode"}
FLAGS = {"E": "--encode", "P": "--prefill", "D": "--decode", "A": "--worker"}
DEADLINES = {
    "connect-timeout": 2.0,
    "first-byte-timeout": 6.0,
    "encode-timeout": 6.0,
    "answer-timeout": 10.0,
    "idle-timeout": 4.0,
    "queue-timeout": 10.0,
}
LEASE_S = 5.0
START_S = 180.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(log: Path, *arguments: str) -> psutil.Popen:
    """Start `tercet` with these arguments; it dies with this process."""
    with log.open("ab") as out:
        return psutil.Popen(
            [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), sys.executable, "-m", "tercet", *arguments],
            env={**os.environ, "TERCET_TOPOLOGY_SECRET": SECRET, "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def family(process: psutil.Popen) -> list[psutil.Process]:
    """Return a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(process.pid), *process.children(recursive=True)]
    return []


class ChaosWorker:
    """One worker, its process and its proxy."""

    def __init__(self, letter: str, index: int, folder: Path, topology: str) -> None:
        self.letter, self.name = letter, f"{letter}{index}"
        self.port = free_port()
        self.proxy = FaultProxy(self.port)
        self._log, self._topology = folder / f"{self.name}.log", topology
        self.process: psutil.Popen | None = None

    @property
    def url(self) -> str:
        """Where it is reached past the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start its process."""
        settings = ("--engine", "virtual", "--gpu", "h100", "--gpu-slowdown", "10", "--random-weights", "tiny-llava")
        limits = ("--dtype", "fp32", "--kv-blocks", "2000", "--lease", f"{LEASE_S:g}", "--topology-id", self._topology)
        where = ("--stages", STAGES[self.letter], "--port", str(self.port))
        self.process = spawn(self._log, "worker", *settings, *limits, *where)

    def send(self, number: signal.Signals, *, engines_only: bool = False) -> None:
        """Send a signal to front and engines, or to the engines alone."""
        assert self.process is not None
        for process in family(self.process)[1 if engines_only else 0 :]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        assert self.process is not None
        everybody = family(self.process)
        if number is signal.SIGTERM:
            self.process.send_signal(number)
        else:
            self.send(number)
        _, left = await asyncio.to_thread(psutil.wait_procs, everybody, 10)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(self.process.wait, 10)


class ChaosFleet:
    """The workers and their router."""

    def __init__(self, folder: Path, form: str) -> None:
        """`form` holds a letter for each worker: `EEPPDDAA`."""
        topology = f"chaos-{os.getpid()}"
        self.workers = [ChaosWorker(x, form[:i].count(x), folder, topology) for i, x in enumerate(form)]
        self._folder = folder
        self.port = free_port()
        self.router: psutil.Popen | None = None
        self.client = Client(connect_timeout_s=5.0)

    @property
    def url(self) -> str:
        """The router's URL."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self, mode: str) -> None:
        """Start everything; return when each worker and pair is ready."""
        urls: list[str] = []
        for worker in self.workers:
            await worker.proxy.start({self.port, *(each.port for each in self.workers)})
            worker.start()
            encodes = "#encode" if worker.letter in "PA" else ""
            urls += [FLAGS[worker.letter], f"http://127.0.0.1:{worker.proxy.port}{encodes}"]
        deadlines = [word for name, value in DEADLINES.items() for word in (f"--{name}", f"{value:g}")]
        settings = ("--mode", mode, "--port", str(self.port), "--health-interval", "0.5", "--breaker-pause", "0.5")
        health = ("--health-timeout", "3", "--encode-fallback", "local")
        self.router = spawn(self._folder / "router.log", "router", *settings, *health, *deadlines, *urls)
        await self.whole(START_S)

    async def close(self) -> None:
        """End everything."""
        await self.client.close()
        for process in [self.router, *(worker.process for worker in self.workers)]:
            if process is not None:
                for member in family(process):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
                await asyncio.to_thread(process.wait, 10)
        for worker in self.workers:
            await worker.proxy.close()

    async def get(self, url: str, method: str = "GET") -> bytes:
        """Return an answer's body. Raises ClientError."""
        response = await self.client.request(method, url, first_byte_timeout_s=10.0, idle_timeout_s=10.0)
        return await response.read()

    async def status(self) -> dict[str, Any]:
        """Return the router's /status. Raises ClientError."""
        import json

        data: dict[str, Any] = json.loads(await self.get(f"{self.url}/status"))
        return data

    async def whole(self, timeout_s: float) -> None:
        """Wait until every worker and every pair is ready. Raises TimeoutError."""
        until = monotonic() + timeout_s
        while True:
            with contextlib.suppress(ClientError):
                status = await self.status()
                if all(part["ready"] for part in (*status["workers"], *status["pairs"])):
                    return
            if monotonic() > until:
                raise TimeoutError("the fleet did not become whole again")
            await asyncio.sleep(0.1)

    async def metric(self, url: str, name: str, **labels: str) -> float:
        """Sum a metric of the router, or of a worker, over its series."""
        total = 0.0
        for line in (await self.get(f"{url}/metrics")).decode().splitlines():
            if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def router_bytes(self) -> int:
        """Return the router's resident memory."""
        assert self.router is not None
        return int(psutil.Process(self.router.pid).memory_info().rss)
