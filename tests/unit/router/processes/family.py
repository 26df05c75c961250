"""A real `tercet router --workers N` before fake workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from tercet.http.client import Client, ClientError
from tests.ports import free_port
from tests.unit.router.fake_worker import FakeWorker, Tickets
from tests.unit.router.harness import Got


@dataclass
class Many:
    process: asyncio.subprocess.Process
    port: int
    workers: list[FakeWorker]
    tickets: Tickets
    log: Path
    key: str = ""
    """What requests show."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Got:
        """Send a request on a connection of its own: the kernel chooses the process."""
        client = Client()
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        data = b"" if body is None else json.dumps(body).encode()
        try:
            response = await client.request(
                method,
                self.url + path,
                headers=[("Content-Type", "application/json"), *headers.items()],
                body=data,
            )
            return Got(response.status, dict(response.headers), await response.read())
        finally:
            await client.close()

    async def get(self, path: str) -> Any:
        got = await self.send("GET", path)
        assert got.status == 200, got
        return got.json

    async def chat(self, *texts: str, **extra: Any) -> Got:
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        return await self.send("POST", "/v1/chat/completions", {"model": "m", "messages": messages, **extra})

    async def status(self) -> Any:
        return await self.get("/status")

    async def until(self, true: Callable[[Any], bool], what: str, timeout_s: float = 60.0) -> Any:
        """Wait until the status is so, and return it."""
        deadline = monotonic() + timeout_s
        while True:
            try:
                status = await self.status()
            except ClientError:
                status = None
            if status is not None and true(status):
                return status
            assert monotonic() < deadline, f"{what}: {status}\n{self.log.read_text()}"
            await asyncio.sleep(0.05)

    async def settled(self) -> None:
        """Wait until nothing is under way, and every process knows what the others learnt: each tells it before it
        reports, and has heard it before it reports again."""
        await self.until(lambda s: s["in_flight"] == 0, "nothing to be under way")
        await self.status()

    async def closed(self) -> None:
        """Wait until nobody listens at the port: every process was told to end."""
        async with asyncio.timeout(60):
            with suppress(ConnectionError):
                while True:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await asyncio.sleep(0.02)

    def children(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found

    async def end(self, number: int = signal.SIGINT) -> int:
        os.kill(self.process.pid, number)
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def many(
    folder: Path, letters: str = "PDD", mode: str = "ppd", *flags: str, processes: int = 3, key: str = ""
) -> AsyncIterator[Many]:
    tickets, port, log = Tickets(), free_port(), folder / "router.log"
    workers = [await FakeWorker(letter, tickets).start() for letter in letters]
    names = {"A": "--worker", "P": "--prefill", "D": "--decode"}
    named = [text for worker in workers for text in (names[worker.role], worker.url)]
    (folder / "random.py").write_text("raise SystemExit('of the folder that it is started in')")
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tercet", "router", "--workers", str(processes), "--mode", mode, *named),
            *("--port", str(port), "--health-interval", "0.2", "--breaker-pause", "0.2", *flags),
            stdout=out,
            stderr=out,
            cwd=folder,
            start_new_session=True,
        )
    router = Many(process, port, workers, tickets, log, key)
    try:
        await router.until(lambda s: s["ready"] and [p["ready"] for p in s["processes"]] == [True] * processes, "ready")
        pairs = letters.count("P") * letters.count("D")
        await router.until(lambda s: sum(pair["ready"] for pair in s["pairs"]) == pairs, "pairs")
        yield router
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        for worker in workers:
            await worker.stop()
