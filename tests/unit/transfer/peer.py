"""A prefill side without an engine: a pool of known bytes, a lease table and a handoff server; here, or in a process.

As a process it reads commands from stdin (one JSON list a line) and answers each with one JSON line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.core.ids import new_id
from tercet.core.sampling import SampledToken
from tercet.core.ticket import Ticket
from tercet.transfer.leases import LeaseTable
from tercet.transfer.pool import SharedPool
from tercet.transfer.server import HandoffServer

SECRET = b"0123456789abcdef0123456789abcdef"
LEASE_S = 30.0


def fresh_topology() -> str:
    """Return a topology id that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


def pattern(seed: int, nbytes: int) -> bytes:
    """Return the bytes of a test's pool."""
    return np.random.default_rng(seed).bytes(nbytes)


def make_ticket(
    engine_id: str, control: str, addresses: dict[str, dict[str, Any]], blocks: Sequence[int], ticket_id: str = ""
) -> Ticket:
    """Return a ticket of one token a block."""
    return Ticket(
        id=ticket_id or new_id("ticket"),
        engine_id=engine_id,
        rank=0,
        fingerprint="f",
        block_size=1,
        token_ids=tuple(range(len(blocks))),
        block_ids=tuple(blocks),
        first=SampledToken(1),
        seed=0,
        control=control,
        addresses=addresses,
        lease_s=LEASE_S,
        expires_at=0.0,
    )


@dataclass(slots=True)
class Prefill:
    """The prefill side inside this process."""

    block_bytes: int
    num_blocks: int
    pool: SharedPool
    leases: LeaseTable
    server: HandoffServer
    engine_id: str
    woken: list[None]

    @classmethod
    def start(
        cls,
        *,
        block_bytes: int = 4096,
        num_blocks: int = 32,
        transports: Sequence[str] = ("shm", "tcp"),
        topology: str = "",
        owner: str = "prefill-0",
        seed: int = 0,
        secret: bytes = SECRET,
    ) -> Prefill:
        pool = SharedPool.create(topology or fresh_topology(), owner, block_bytes * num_blocks)
        pool.memory[:] = pattern(seed, block_bytes * num_blocks)
        leases, engine_id = LeaseTable(), new_id("engine")
        woken: list[None] = []
        server = HandoffServer(
            leases,
            pool,
            block_bytes,
            engine_id=engine_id,
            transports=transports,
            secret=secret,
            lease_s=LEASE_S,
            wake=lambda: woken.append(None),
        )
        return cls(block_bytes, num_blocks, pool, leases, server, engine_id, woken)

    def ticket(self, blocks: Sequence[int]) -> Ticket:
        """Return a ticket whose lease runs."""
        ticket = make_ticket(self.engine_id, self.server.control, self.server.addresses, blocks)
        self.leases.grant(ticket.id, blocks, 0.0)
        return ticket

    def block(self, index: int) -> bytes:
        """Return a block's bytes."""
        return bytes(self.pool.memory[index * self.block_bytes : (index + 1) * self.block_bytes])

    def close(self) -> None:
        self.server.close()
        self.pool.close()


class PrefillProcess:
    """The prefill side in a process of its own."""

    def __init__(
        self,
        *,
        block_bytes: int = 4096,
        num_blocks: int = 32,
        transports: Sequence[str] = ("shm", "tcp"),
        topology: str = "",
        seed: int = 0,
    ) -> None:
        self.topology = topology or fresh_topology()
        self.block_bytes, self.num_blocks, self.seed = block_bytes, num_blocks, seed
        arguments = {
            "block_bytes": block_bytes,
            "num_blocks": num_blocks,
            "transports": list(transports),
            "topology": self.topology,
            "seed": seed,
        }
        root = Path(__file__).parents[3]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.transfer.peer", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        hello = self._read()
        self.engine_id, self.control, self.addresses = hello["engine_id"], hello["control"], hello["addresses"]
        self.segment = Path("/dev/shm") / f"tercet.{self.topology}.prefill-0"

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, *command: Any) -> Any:
        """Send a command and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._read()

    def ticket(self, blocks: Sequence[int]) -> Ticket:
        """Return a ticket whose lease runs."""
        ticket = make_ticket(self.engine_id, self.control, self.addresses, blocks)
        self.ask("grant", ticket.id, list(blocks))
        return ticket

    def expected(self) -> bytes:
        """Return the pool's bytes."""
        return pattern(self.seed, self.block_bytes * self.num_blocks)

    def stop(self) -> None:
        """Freeze the process (SIGSTOP), and return when every thread of it stands still."""
        self.process.send_signal(signal.SIGSTOP)
        threads, end = Path(f"/proc/{self.process.pid}/task"), time.monotonic() + 30.0
        while any((each / "stat").read_text().rpartition(") ")[2][0] != "T" for each in threads.iterdir()):
            assert time.monotonic() < end
            time.sleep(0.001)

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait(60)

    def close(self) -> None:
        """End the process, whatever state it is in, and remove what it left."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.segment.unlink(missing_ok=True)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # UCX logs to stdout
    peer = Prefill.start(**json.loads(sys.argv[1]))
    hello = {"engine_id": peer.engine_id, "control": peer.server.control, "addresses": peer.server.addresses}
    print(json.dumps(hello), file=answers, flush=True)
    for line in sys.stdin:
        op, *arguments = json.loads(line)
        answer: Any = None
        if op == "grant":
            peer.leases.grant(arguments[0], arguments[1], 0.0)
        elif op == "revoke":
            peer.leases.revoke(arguments[0])
        elif op == "events":
            answer = [[event.ticket_id, event.until, event.accepted] for event in peer.leases.drain()]
        elif op == "live":
            answer = len(peer.leases)
        print(json.dumps(answer), file=answers, flush=True)
    peer.close()


if __name__ == "__main__":
    main()
