"""One process of a load generator of several: does its share of a job and reports on stdout.

stdin: one line with the job, then one with the run's start on the clock that all processes share; its end means stop.
stdout: messages of four bytes of length and msgpack: `ready`, `record`, `tally`, and at last `vitals`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import astuple
from typing import BinaryIO

import msgpack
import uvloop

from tercet.bench.drive import quiet_memory
from tercet.bench.job import Job, prepare, run_job
from tercet.bench.result import RequestResult
from tercet.bench.tally import Tally
from tercet.results.codec import decode, encode

TALLY_EVERY_S = 0.5


async def serve_share(stdin: asyncio.StreamReader, stdout: BinaryIO) -> None:
    """Do the share that stdin describes, until it is done or stdin ends."""
    task = json.loads(await stdin.readline())
    job = decode(Job, task["job"])
    place = {"share": task["share"], "shares": task["shares"]}
    talks = prepare(job, **place)
    with quiet_memory():
        _send(stdout, "ready")
        line = await stdin.readline()
        if not line:
            return
        origin_ns = int(line)
        tally = Tally()

        def on_result(result: RequestResult) -> None:
            _send(stdout, "record", encode(result.record(origin_ns)), result.text if job.keep_text else "")

        async def report() -> None:
            while True:
                await asyncio.sleep(TALLY_EVERY_S)
                _send(stdout, "tally", *astuple(tally))

        work = asyncio.create_task(run_job(job, talks, origin_ns, on_result, tally, **place))
        ended = asyncio.create_task(stdin.read())
        reporter = asyncio.create_task(report())
        await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
        reporter.cancel()
        if work.done():
            vitals = work.result()
            _send(stdout, "tally", *astuple(tally))
            _send(stdout, "vitals", vitals.lags_ms, vitals.cpu_s, vitals.wall_s)
        for rest in (work, ended, reporter):
            rest.cancel()
        await asyncio.gather(work, ended, reporter, return_exceptions=True)


def _send(stdout: BinaryIO, *message: object) -> None:
    packed = msgpack.packb(message)
    stdout.write(len(packed).to_bytes(4) + packed)
    stdout.flush()


async def main() -> None:
    """Serve one share over this process's stdin and stdout."""
    reader = asyncio.StreamReader(limit=1 << 30)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await serve_share(reader, sys.stdout.buffer)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, and that ends this one
    uvloop.run(main())
