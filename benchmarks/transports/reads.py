"""How fast blocks cross from one process to another by each transport, next to one memcpy of them in the same run.

    python -m benchmarks.transports.reads [--transports shm,tcp] [--rounds N] [--busy] [--json FILE]

Part 1: for each size, in turn and round by round: one memcpy of the bytes (from the mapped segment to the pool, pages
of both touched before), a read by each transport, a whole fetch (read and commit) by each; medians of wall time and of
the reading thread's processor time, and the ratios of memcpy's to them (of a busy machine, only the latter tell
something; the libraries' own threads are not in them). Part 2: a whole fetch of a 512-token prompt of SmolLM2-135M
(32 blocks of 16 tokens, 368,640 bytes each in bf16) between two idle processes. `--busy` keeps a Python thread spinning
in the reading process, as an engine's step loop might. Transports of extras that are not installed are left out, and
named.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tercet.core.ids import new_id
from tercet.core.sampling import SampledToken
from tercet.core.ticket import Ticket
from tercet.transfer.client import HandoffClient
from tercet.transfer.connection import Connections
from tercet.transfer.leases import LeaseTable
from tercet.transfer.messages import derive_key
from tercet.transfer.optional import runs_here
from tercet.transfer.pool import DATA_OFFSET, SHM_DIR, SharedPool
from tercet.transfer.protocol import BlockReader
from tercet.transfer.registry import NAMES, chosen
from tercet.transfer.server import HandoffServer
from tercet.transfer.transport import Import

SIZES = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20]
BLOCK = 64 << 10
SMOLLM2_BLOCK = 368_640
SMOLLM2_BLOCKS = 32
TIMEOUT_S = 30.0
HOST = "127.0.0.1"
IDLE_S = 0.005
"""Pause before each handoff, so that both processes sleep as they do between requests."""


def serve() -> None:
    """Be the prefill side until stdin ends: grants a ticket for every line of JSON block ids."""
    options = json.loads(sys.argv[2])
    pool = SharedPool.create(options["topology"], "prefill-0", options["nbytes"])
    np.frombuffer(pool.memory, np.uint8)[:] = np.random.default_rng(0).integers(0, 256, options["nbytes"], np.uint8)
    leases, engine_id = LeaseTable(), new_id("engine")
    server = HandoffServer(
        leases,
        pool,
        options["block_bytes"],
        engine_id=engine_id,
        transports=options["transports"],
        secret=bytes.fromhex(options["secret"]),
        lease_s=60.0,
        wake=lambda: None,
    )
    print(json.dumps([engine_id, server.control, server.addresses]), flush=True)
    for line in sys.stdin:
        ticket_id = new_id("ticket")
        leases.grant(ticket_id, json.loads(line), 0.0)
        leases.drain()
        print(json.dumps(ticket_id), flush=True)
    server.close()
    pool.close()


class Prefill:
    """The other process."""

    def __init__(self, block_bytes: int, num_blocks: int, transports: Sequence[str]) -> None:
        self.block_bytes, self.secret = block_bytes, secrets.token_bytes(32)
        topology = f"bench-{secrets.token_hex(6)}"
        self.segment = SHM_DIR / f"tercet.{topology}.prefill-0"
        options = {
            "topology": topology,
            "nbytes": block_bytes * num_blocks,
            "block_bytes": block_bytes,
            "secret": self.secret.hex(),
            "transports": list(transports),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.transports.reads", "serve", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.engine_id, self.control, self.addresses = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ticket(self, blocks: Sequence[int]) -> Ticket:
        """Return a ticket whose lease runs."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(blocks)) + "\n")
        self.process.stdin.flush()
        ids = tuple(blocks)
        first = SampledToken(1)
        return Ticket(
            self._read(), self.engine_id, 0, "f", 1, ids, ids, first, 0, self.control, self.addresses, 60.0, 0.0
        )

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


class Time(NamedTuple):
    """Seconds by the wall's clock, and of this thread's processor time."""

    wall: float
    cpu: float


def timed(work: Callable[..., object], *arguments: object) -> Time:
    begun, used = time.perf_counter(), time.thread_time()
    work(*arguments)
    return Time(time.perf_counter() - begun, time.thread_time() - used)


def median(times: list[Time]) -> Time:
    return Time(statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times))


def touched(nbytes: int) -> memoryview:
    memory = memoryview(mmap.mmap(-1, nbytes))
    np.frombuffer(memory, np.uint8)[:] = 1
    return memory


def collect(rounds: int, once: Callable[[], dict[str, Time]]) -> dict[str, list[Time]]:
    """Return the times of all rounds by name; the first two rounds only warm up."""
    times: dict[str, list[Time]] = {}
    for turn in range(rounds + 2):
        for name, seconds in once().items():
            if turn >= 2:
                times.setdefault(name, []).append(seconds)
    return times


def one_size(
    peer: Prefill,
    readers: dict[str, BlockReader],
    clients: dict[str, HandoffClient],
    target: memoryview,
    source: np.ndarray[Any, np.dtype[np.uint8]],
    nbytes: int,
) -> dict[str, Time]:
    straight = list(range(nbytes // BLOCK))
    orders = {"": straight}
    if len(straight) > 1:
        orders[", scattered"] = random.Random(0).sample(straight, len(straight))
    results = {"memcpy": timed(np.copyto, np.frombuffer(target, np.uint8)[:nbytes], source[:nbytes])}
    for name, reader in readers.items():
        for label, local in orders.items():
            ticket = peer.ticket(straight)
            arguments = (straight, target, local, BLOCK, TIMEOUT_S)
            results[f"{name} read{label}"] = timed(reader.read, peer.addresses[name], ticket.id, *arguments)
            results[f"{name} fetch{label}"] = timed(clients[name].fetch, ticket, *arguments)
            assert np.array_equal(np.frombuffer(target, np.uint8)[BLOCK * local[0] :][:BLOCK], source[:BLOCK])
    return results


def sizes(rounds: int, names: Sequence[str]) -> list[dict[str, Any]]:
    peer, target = Prefill(BLOCK, SIZES[-1] // BLOCK, names), touched(SIZES[-1])
    with open(peer.segment, "rb") as file:
        source = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)[DATA_OFFSET:]
    assert source.any()
    connections = Connections(derive_key(peer.secret))
    readers = {each.name: each.reader(Import(connections, HOST)) for each in chosen(names, HOST)}
    clients = {name: HandoffClient(transports=[name], secret=peer.secret) for name in readers}
    rows: list[dict[str, Any]] = []
    print(f"{'bytes':>10} {'what':<22} {'median ms':>9} {'GB/s':>6} {'x memcpy':>8} {'cpu ms':>8} {'x cpu':>6}")
    for nbytes in SIZES:
        times = collect(rounds, partial(one_size, peer, readers, clients, target, source, nbytes))
        memcpy = median(times["memcpy"])
        for what, seconds in times.items():
            wall, cpu = median(seconds)
            ratio, cpu_ratio = memcpy.wall / wall, memcpy.cpu / cpu
            rows.append(
                {"bytes": nbytes, "what": what, "wall_s": wall, "ratio": ratio, "cpu_s": cpu, "cpu_ratio": cpu_ratio}
            )
            figures = (
                f"{wall * 1e3:>9.3f} {nbytes / wall / 1e9:>6.2f} {ratio:>8.2f} {cpu * 1e3:>8.3f} {cpu_ratio:>6.2f}"
            )
            print(f"{nbytes:>10} {what:<22} {figures}")
    for client in clients.values():
        client.close()
    for reader in readers.values():
        reader.close()
    connections.close()
    peer.close()
    return rows


def one_handoff(peer: Prefill, clients: dict[str, HandoffClient], pool: memoryview) -> dict[str, Time]:
    remote = list(range(SMOLLM2_BLOCKS))
    orders = {"contiguous": remote, "scattered": random.Random(0).sample(range(128), SMOLLM2_BLOCKS)}
    results: dict[str, Time] = {}
    for name, client in clients.items():
        for label, local in orders.items():
            arguments = (peer.ticket(remote), remote, pool, local, SMOLLM2_BLOCK, TIMEOUT_S)
            time.sleep(IDLE_S)
            results[f"{name}, {label}"] = timed(client.fetch, *arguments)
        ticket = peer.ticket(remote)
        time.sleep(IDLE_S)
        results[f"{name}, release only"] = timed(client.release, ticket)
        fresh = SharedPool.create(f"bench-{secrets.token_hex(6)}", "decode-0", SMOLLM2_BLOCK * SMOLLM2_BLOCKS)
        for label, memory in (("", pool), (", untouched pages", fresh.memory)):
            newcomer = HandoffClient(transports=[name], secret=peer.secret)
            arguments = (peer.ticket(remote), remote, memory, remote, SMOLLM2_BLOCK, TIMEOUT_S)
            time.sleep(IDLE_S)
            results[f"{name}, first from this peer{label}"] = timed(newcomer.fetch, *arguments)
            newcomer.close()
        fresh.close()
    return results


def handoff(rounds: int, names: Sequence[str]) -> list[dict[str, Any]]:
    peer, pool = Prefill(SMOLLM2_BLOCK, 128, names), touched(SMOLLM2_BLOCK * 128)
    clients = {name: HandoffClient(transports=[name], secret=peer.secret) for name in names}
    times = collect(rounds, partial(one_handoff, peer, clients, pool))
    print(f"\n512 tokens of SmolLM2-135M in bf16, {SMOLLM2_BLOCK * SMOLLM2_BLOCKS} bytes: ms from call to accepted")
    print(f"{'what':<44} {'median':>7} {'p90':>7} {'best':>7} {'cpu':>7}")
    rows: list[dict[str, Any]] = []
    for what, seconds in times.items():
        (wall, cpu), p90, best = median(seconds), sorted(seconds)[int(len(seconds) * 0.9)].wall, min(seconds).wall
        rows.append({"what": what, "wall_s": wall, "p90_s": p90, "best_s": best, "cpu_s": cpu})
        print(f"{what:<44} {wall * 1e3:>7.2f} {p90 * 1e3:>7.2f} {best * 1e3:>7.2f} {cpu * 1e3:>7.2f}")
    for client in clients.values():
        client.close()
    peer.close()
    return rows


def spin() -> None:
    while True:
        sum(range(1000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transports", default=",".join(NAMES), help="which, separated by commas")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds of each part")
    parser.add_argument("--busy", action="store_true", help="keep a Python thread spinning beside the reader")
    parser.add_argument("--json", help="write the figures to this file, too")
    options = parser.parse_args()
    if options.busy:
        threading.Thread(target=spin, daemon=True).start()
    print(f"load average of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    names = [name for name in options.transports.split(",") if runs_here(name)]
    print(f"not installed: {', '.join(set(options.transports.split(',')) - set(names)) or 'none of them'}")
    report = {"busy": options.busy, "sizes": sizes(options.rounds, names), "handoff": handoff(options.rounds, names)}
    print(f"load average of the last minute: {os.getloadavg()[0]:.1f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    else:
        main()
