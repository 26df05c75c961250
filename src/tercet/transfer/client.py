"""The decode side of handoffs: fetch a ticket's blocks, and keep or end its lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tercet.core.errors import TransferError
from tercet.transfer.connection import Connections
from tercet.transfer.deadline import Deadline
from tercet.transfer.messages import derive_key, vouched
from tercet.transfer.protocol import BlockReader, BlockTicket
from tercet.transfer.registry import chosen
from tercet.transfer.runs import check_blocks
from tercet.transfer.transport import Import

CONTROL_TIMEOUT_S = 2.0
NOTHING = "none"
"""What `fetch` returns when there was nothing to move."""


class HandoffClient:
    """Reads blocks through the first of `transports` that reaches them. Thread-safe: call it from transfer threads.

    `host` is what this worker is bound to: a transport that listens even to read does so there.
    """

    def __init__(
        self,
        *,
        transports: Sequence[str],
        secret: bytes,
        host: str = "127.0.0.1",
        control_timeout_s: float = CONTROL_TIMEOUT_S,
    ) -> None:
        self._key = derive_key(secret)
        self._control_timeout_s = control_timeout_s
        self._connections = Connections(self._key)
        setting = Import(self._connections, host)
        self._readers: tuple[BlockReader, ...] = tuple(each.reader(setting) for each in chosen(transports, host))

    def fetch(
        self,
        ticket: BlockTicket,
        remote: Sequence[int],
        pool: memoryview,
        local: Sequence[int],
        block_bytes: int,
        timeout_s: float,
        *,
        accept: bool = True,
    ) -> str:
        """Copy the ticket's blocks `remote` to the pool's blocks `local`, accept the ticket, return the transport used.

        The copy is optimistic. Accepting asks whether the lease lasted until now: the bytes are right, or this raises.
        Without `accept` the lease is renewed instead, which asks the same: the blocks may be wanted again.
        With nothing to copy, the ticket is only released and "none" returned. Raises TransferError within `timeout_s`:
        lease over, peer gone or restarted, secret or checksum wrong, no common transport, bad block ids. Then the local
        blocks hold anything and the lease may still run: recompute, and `release` the ticket.
        """
        deadline = Deadline.after(timeout_s)
        if not remote and not local:
            self._end(ticket, accepted=True, deadline=deadline)
            return NOTHING
        target = pool if pool.format == "B" and pool.ndim == 1 else pool.cast("B")
        reader, address = self._choose(ticket)
        _check(ticket, address, remote, target, local, block_bytes)
        reader.read(address, ticket.id, remote, target, local, block_bytes, deadline.check("fetching"))
        lasted = (
            self._ask(ticket, "release", deadline, accepted=True) if accept else self._ask(ticket, "renew", deadline)
        )
        if not lasted:
            raise TransferError(f"the lease of ticket {ticket.id} ended before its blocks were read")
        return reader.name

    def renew(self, ticket: BlockTicket) -> bool:
        """Prolong the lease by its length from now. False when it is over. Raises TransferError when nobody answers."""
        return self._ask(ticket, "renew", Deadline.after(self._control_timeout_s))

    def release(self, ticket: BlockTicket) -> bool:
        """End the lease: nobody wants the blocks. False when it was over, or nobody answers (then it will expire)."""
        return self._end(ticket, accepted=False, deadline=Deadline.after(self._control_timeout_s))

    def close(self) -> None:
        """Drop connections and mappings; threads inside a call get a TransferError."""
        for reader in self._readers:
            reader.close()
        self._connections.close()

    def _choose(self, ticket: BlockTicket) -> tuple[BlockReader, dict[str, Any]]:
        reasons: list[str] = []
        for reader in self._readers:
            address = ticket.addresses.get(reader.name)
            if address is None:
                reasons.append(f"{reader.name}: not offered")
            elif not self._vouched(ticket, reader.name, address):
                reasons.append(f"{reader.name}: the address is not of this topology (wrong secret, or forged)")
            elif why := reader.unreachable(address):
                reasons.append(f"{reader.name}: {why}")
            else:
                return reader, address
        raise TransferError(f"no transport reaches engine {ticket.engine_id}: {'; '.join(reasons)}")

    def _vouched(self, ticket: BlockTicket, name: str, address: dict[str, Any]) -> bool:
        return (
            isinstance(address, dict)
            and address.get("engine_id") == ticket.engine_id
            and vouched(self._key, ticket.control, name, address)
        )

    def _ask(self, ticket: BlockTicket, op: str, deadline: Deadline, **fields: bool) -> bool:
        # Never talk to an endpoint that the topology doesn't vouch for: a ticket came through other hands.
        if not any(self._vouched(ticket, name, address) for name, address in ticket.addresses.items()):
            raise TransferError(f"ticket {ticket.id} is not of this topology: wrong secret, or forged")
        with self._connections.to(ticket.control, deadline) as connection:
            body = connection.request(ticket.engine_id, op, ticket.id, deadline, **fields)
        return body.get("done") is True

    def _end(self, ticket: BlockTicket, *, accepted: bool, deadline: Deadline) -> bool:
        try:
            return self._ask(ticket, "release", deadline, accepted=accepted)
        except TransferError:
            return False


def _check(
    ticket: BlockTicket,
    address: dict[str, Any],
    remote: Sequence[int],
    pool: memoryview,
    local: Sequence[int],
    block_bytes: int,
) -> None:
    if block_bytes <= 0 or address["block_bytes"] != block_bytes:
        raise TransferError(f"blocks have {address['block_bytes']} bytes there and {block_bytes} here")
    if len(remote) != len(local):
        raise TransferError(f"{len(remote)} remote blocks for {len(local)} local ones")
    check_blocks(remote, int(address["num_blocks"]), "the remote")
    check_blocks(local, pool.nbytes // block_bytes, "the local")
    if strange := set(remote) - set(ticket.block_ids):
        raise TransferError(f"block {min(strange)} is not in ticket {ticket.id}")
