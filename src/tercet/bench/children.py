"""A run shared among several processes, each with an event loop of its own, merged exactly."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import msgpack

from tercet.bench.health import Vitals
from tercet.bench.job import Job
from tercet.bench.tally import Tally
from tercet.core.errors import TercetError
from tercet.results.codec import decode, encode
from tercet.results.record import RequestRecord

START_S = 30.0
"""A process must be ready for its share within so long."""

STOP_S = 10.0
"""A process that was told to stop must have ended within so long."""

OnShared = Callable[[RequestRecord, str], None]
"""Called with a request's record, and its answer's text where the job keeps it."""


class Children:
    """So many processes that do a job together. They share this machine's clock, and so one start."""

    def __init__(self, job: Job, shares: int, on_record: OnShared, tally: Tally) -> None:
        self._job = job
        self._shares = min(shares, job.traffic.concurrency or shares)
        self._on_record = on_record
        self._tally = tally
        self._tallies = [Tally() for _ in range(self._shares)]
        self._children: list[asyncio.subprocess.Process] = []

    async def run(self, lead_ns: int) -> tuple[Vitals, ...]:
        """Start them, and `lead_ns` after all are ready the run; return what each measured of itself.

        Raises TercetError when one dies. When cancelled they are stopped, and what was over was told.
        """
        try:
            for share in range(self._shares):
                await self._start(share)
            async with asyncio.timeout(START_S):
                for child in self._children:
                    await self._expect(child, "ready")
            origin_ns = perf_counter_ns() + lead_ns
            for child in self._children:
                assert child.stdin is not None
                child.stdin.write(f"{origin_ns}\n".encode())
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._listen(share, c)) for share, c in enumerate(self._children)]
            return tuple(task.result() for task in tasks)
        except TimeoutError:
            raise TercetError(f"a process of the load generator was not ready within {START_S:g} s") from None
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await self._stop()

    async def _start(self, share: int) -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "tercet.bench.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        self._children.append(child)
        assert child.stdin is not None
        task = {"job": encode(self._job), "share": share, "shares": self._shares}
        child.stdin.write(json.dumps(task).encode() + b"\n")
        await child.stdin.drain()

    async def _listen(self, share: int, child: asyncio.subprocess.Process) -> Vitals:
        while True:
            kind, *content = await self._message(child)
            if kind == "record":
                self._on_record(decode(RequestRecord, content[0]), content[1])
            elif kind == "tally":
                self._tallies[share] = Tally(*content)
                self._recount()
            else:
                return Vitals(tuple(content[0]), content[1], content[2])

    def _recount(self) -> None:
        self._tally.sent = self._tally.done = self._tally.failed = self._tally.chunks = 0
        for tally in self._tallies:
            self._tally.add(tally)

    async def _expect(self, child: asyncio.subprocess.Process, kind: str) -> None:
        got = await self._message(child)
        if got[0] != kind:
            raise TercetError(f"a process of the load generator said {got[0]!r} where {kind!r} was due")

    async def _message(self, child: asyncio.subprocess.Process) -> list[Any]:
        """Read one message: four bytes of length, then msgpack. Raises TercetError at the stream's end."""
        assert child.stdout is not None
        try:
            size = int.from_bytes(await child.stdout.readexactly(4))
            message: list[Any] = msgpack.unpackb(await child.stdout.readexactly(size))
        except asyncio.IncompleteReadError:
            raise TercetError("a process of the load generator died; what it said is above") from None
        return message

    async def _stop(self) -> None:
        """End those that still run: a closed stdin tells them to."""
        for child in self._children:
            if child.stdin is not None:
                child.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                for child in self._children:
                    await child.wait()
        except TimeoutError:
            for child in self._children:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
