"""`tcp`: blocks travel through ZeroMQ in pieces, more than one under way, each with lengths and checksums.

The checksum is XXH3 (64 bits), some 20 GB/s: zlib's crc32, at 3.7 GB/s, took 40% of a transfer's processor time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from xxhash import xxh3_64_intdigest

from tercet.core.errors import TransferError
from tercet.transfer.connection import Reply
from tercet.transfer.deadline import Deadline
from tercet.transfer.responder import Answer, Responder
from tercet.transfer.runs import Run, coalesce, copy, pieces
from tercet.transfer.transport import Export, Import, Transport

PIECE_BYTES = 1 << 20
"""What one message carries: small enough that peers take turns, large enough that its overhead is lost in the copy."""
MAX_PIECE_BYTES = 8 << 20
MAX_RUNS = 64
IN_FLIGHT = 2
"""Pieces asked for at a time: one on the wire while the other is checked and copied. With more, the allocator gives the
messages' memory back to the system between pieces, and faulting it in again costs more than the copy."""


class TcpSource:
    """Sends blocks of live tickets, straight out of the pool, from a thread of its own."""

    name = "tcp"

    def __init__(self, export: Export) -> None:
        self._pool, self._block_bytes, self._leases = export.pool, export.block_bytes, export.leases
        self._responder = Responder(
            export.context,
            self.name,
            key=export.key,
            engine_id=export.engine_id,
            leases=export.leases,
            handle=self._handle,
            host=export.host,
            advertise_host=export.advertise_host,
        )

    @property
    def dropped(self) -> Counter[str]:
        """Messages that were not answered, by reason."""
        return self._responder.dropped

    def address(self) -> dict[str, Any]:
        """Return the data endpoint."""
        return {"endpoint": self._responder.endpoint}

    def close(self) -> None:
        """Stop sending."""
        self._responder.close()

    def _handle(self, op: str, ticket_id: str, body: dict[str, Any]) -> Answer:
        if op != "read":
            raise TransferError(f"unknown request {op!r} to the data endpoint")
        runs = [(int(offset), int(nbytes)) for offset, nbytes in body["runs"]]
        total = sum(nbytes for _, nbytes in runs)
        if not 0 < len(runs) <= MAX_RUNS or total > MAX_PIECE_BYTES:
            raise TransferError(f"a piece of {total} bytes in {len(runs)} runs is over the limit")
        for offset, nbytes in runs:
            if offset < 0 or nbytes <= 0 or offset + nbytes > self._pool.nbytes:
                raise TransferError(f"bytes {offset} to {offset + nbytes} are outside the pool")
            blocks = range(offset // self._block_bytes, -(-(offset + nbytes) // self._block_bytes))
            if not self._leases.covers(ticket_id, blocks):
                raise TransferError("the ticket has ended, or does not cover these blocks")
        frames = [self._pool[offset : offset + nbytes] for offset, nbytes in runs]
        return Answer({"sums": [xxh3_64_intdigest(frame) for frame in frames]}, frames)


class TcpReader:
    """Asks for pieces and copies what arrives into the pool. Thread-safe: each read has a connection of its own."""

    name = "tcp"

    def __init__(self, setting: Import) -> None:
        self._connections = setting.connections

    def unreachable(self, address: dict[str, Any]) -> str | None:
        """Return what is wrong with the address, or None; whether somebody listens shows in `read`."""
        endpoint = address.get("endpoint")
        return None if isinstance(endpoint, str) and endpoint.startswith("tcp://") else f"bad endpoint {endpoint!r}"

    def read(
        self,
        address: dict[str, Any],
        ticket_id: str,
        remote: Sequence[int],
        pool: memoryview,
        local: Sequence[int],
        block_bytes: int,
        timeout_s: float,
    ) -> None:
        """Copy blocks pairwise; every piece is checked before it touches the pool."""
        deadline = Deadline.after(timeout_s)
        engine_id = str(address["engine_id"])
        todo = pieces(coalesce(remote, local, block_bytes), PIECE_BYTES, MAX_RUNS)
        under_way: dict[bytes, list[Run]] = {}
        with self._connections.to(address["endpoint"], deadline) as connection:
            while True:
                while len(under_way) < IN_FLIGHT and (piece := next(todo, None)):
                    wanted = [(run.source, run.nbytes) for run in piece]
                    under_way[connection.send(engine_id, "read", ticket_id, deadline, runs=wanted)] = piece
                if not under_way:
                    return
                reply = connection.receive(deadline)
                _place(reply, under_way.pop(reply.nonce, None), pool)

    def close(self) -> None:
        """Do nothing: the connections belong to the client."""


def _place(reply: Reply, piece: list[Run] | None, pool: memoryview) -> None:
    sums = reply.body.get("sums")
    if piece is None or not isinstance(sums, list) or not len(sums) == len(reply.frames) == len(piece):
        raise TransferError("a piece came back that was not asked for")
    for run, frame, checksum in zip(piece, reply.frames, sums, strict=True):
        if frame.nbytes != run.nbytes:
            raise TransferError(f"a run of {run.nbytes} bytes came back with {frame.nbytes}")
        if xxh3_64_intdigest(frame) != checksum:
            raise TransferError("a checksum is wrong: the blocks changed under way, or were given to others meanwhile")
        copy(pool[run.target : run.target + run.nbytes], frame)


TCP = Transport("tcp", TcpSource, TcpReader)
