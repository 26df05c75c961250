"""How a step's tokens get from an engine to its front when both share one busy core: a socket pair against ZeroMQ.

`python benchmarks/worker/channel_latency.py [--steps 400] [--core 0]`

A child computes 5 ms, sends the tokens of 16 sequences, computes on; the parent, on the same core, waits for them.
Printed per message: CPU time of parent and child (all threads, without the computing) and the time between sending
and receiving. Runs are interleaved. ZeroMQ hands every message through an I/O thread on either side, and each has to
get the core first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import uvloop
import zmq
import zmq.asyncio

from tercet.worker.channel import EngineChannel, FrontChannel, Message

COMPUTE_S = 0.005
TOKENS = [x for i in range(16) for x in (str(i), 5)]


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def engine(kind: str, address: str, steps: int) -> None:
    """Be the child."""
    send: Callable[[Message], object]
    if kind == "zmq":
        context = zmq.Context()
        pair = context.socket(zmq.PAIR)
        pair.connect(address)
        send = lambda message: pair.send(msgpack.packb(message))  # noqa: E731
    else:
        send = EngineChannel(socket.socket(fileno=int(address))).send
    spent = 0
    for _ in range(steps):
        ends = time.perf_counter() + COMPUTE_S
        while time.perf_counter() < ends:
            pass
        before = time.process_time_ns()
        send({"sent": time.perf_counter_ns(), "tokens": TOKENS})
        spent += time.process_time_ns() - before
    send({"sent": 0, "cpu": spent})
    time.sleep(0.5)


async def front(kind: str, steps: int) -> str:
    """Be the parent of one run; return a line."""
    late: list[int] = []
    begun = asyncio.Event()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def take(message: Message) -> None:
        begun.set()
        if message["sent"]:
            late.append(time.perf_counter_ns() - message["sent"])
        else:
            ended.set_result(message["cpu"])

    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = socket.socketpair()
        pump: asyncio.Task[None] | None = None
        address = f"ipc://{folder}/s" if kind == "zmq" else str(theirs.fileno())
        if kind == "zmq":
            pair = zmq.asyncio.Context().socket(zmq.PAIR)
            pair.bind(address)

            async def read() -> None:
                while True:
                    take(msgpack.unpackb(await pair.recv()))

            pump = asyncio.create_task(read())
        else:
            await asyncio.get_running_loop().create_unix_connection(lambda: FrontChannel(take), sock=ours)
        arguments = (__file__, "--child", kind, address, "--steps", str(steps))
        child = await asyncio.create_subprocess_exec(sys.executable, *arguments, pass_fds=(theirs.fileno(),))
        await asyncio.wait_for(begun.wait(), 60)
        before = cpu_ns(os.getpid())
        first = len(late)
        engine_cpu = await asyncio.wait_for(ended, 60)
        cpu = (cpu_ns(os.getpid()) - before) / max(len(late) - first, 1)
        if pump is not None:
            pump.cancel()
        await child.wait()
        theirs.close()
    late.sort()
    p50, p90, p99 = (late[int(len(late) * q)] / 1e3 for q in (0.5, 0.9, 0.99))
    return (
        f"{kind:10s} front {cpu / 1e3:6.1f} us, engine {engine_cpu / steps / 1e3:6.1f} us of CPU a message; "
        f"late by {p50:.0f} us (p50), {p90:.0f} us (p90), {p99:.0f} us (p99)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    if arguments.child:
        os.nice(5)
        kind, address = arguments.child
        engine(kind, address, arguments.steps)
        return
    for _ in range(3):
        for kind in ("socketpair", "zmq"):
            print(uvloop.run(front(kind, arguments.steps)), flush=True)


if __name__ == "__main__":
    main()
