"""Image tickets: proof and address of a picture's embeddings, carried in `ec_transfer_params`."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from tercet.core.errors import TicketError
from tercet.core.ids import is_name

IMAGE_TICKET_VERSION = 1
BLOCK_ROWS = 16
"""Rows (one a token) of embeddings in a block, the unit in which they are kept and moved."""


def blocks_for_rows(rows: int) -> int:
    """Return how many blocks `rows` rows of embeddings fill."""
    return -(-rows // BLOCK_ROWS)


@dataclass(frozen=True, slots=True)
class ImageTicket:
    """What an encoder hands on for one picture.

    `key` names the picture (`core.image.image_key`), `tokens` counts its rows, which fill `block_ids` in order.
    `fingerprint` names tower and projector weights, preprocessing, dtype and layout. `addresses`, `control`, `lease_s`
    and `expires_at` are as in a KV ticket. A lease can be for several readers, each of whom ends its share.
    """

    id: str
    key: str
    engine_id: str
    rank: int
    fingerprint: str
    tokens: int
    block_ids: tuple[int, ...]
    control: str
    addresses: dict[str, dict[str, Any]]
    lease_s: float
    expires_at: float

    def to_params(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "version": IMAGE_TICKET_VERSION,
            "ticket_id": self.id,
            "key": self.key,
            "remote_engine_id": self.engine_id,
            "remote_rank": self.rank,
            "fingerprint": self.fingerprint,
            "tokens": self.tokens,
            "remote_block_ids": list(self.block_ids),
            "control": self.control,
            "addresses": self.addresses,
            "lease_s": self.lease_s,
            "remote_blocks_expiry_time": self.expires_at,
        }

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> ImageTicket:
        """Read a ticket back. Raises TicketError when it is malformed or of another version."""
        if not isinstance(params, dict):
            raise TicketError(f"an image ticket is an object, not {type(params).__name__}")
        if params.get("version") != IMAGE_TICKET_VERSION:
            raise TicketError(
                f"image ticket version {params.get('version')!r} is not {IMAGE_TICKET_VERSION}: upgrade the worker"
            )
        try:
            ticket = cls(
                id=str(params["ticket_id"]),
                key=str(params["key"]),
                engine_id=str(params["remote_engine_id"]),
                rank=int(params["remote_rank"]),
                fingerprint=str(params["fingerprint"]),
                tokens=int(params["tokens"]),
                block_ids=tuple(int(b) for b in params["remote_block_ids"]),
                control=str(params["control"]),
                addresses=dict(params["addresses"]),
                lease_s=float(params["lease_s"]),
                expires_at=float(params["remote_blocks_expiry_time"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TicketError(f"malformed image ticket: {error!r}") from error
        if not (is_name(ticket.id) and is_name(ticket.engine_id)):
            raise TicketError("malformed image ticket: its id or its engine's is none")
        if not (isfinite(ticket.lease_s) and ticket.lease_s > 0):
            raise TicketError("an image ticket's lease is not a time")
        if ticket.tokens < 1 or len(ticket.block_ids) != blocks_for_rows(ticket.tokens):
            raise TicketError(f"an image ticket names {len(ticket.block_ids)} blocks for {ticket.tokens} rows")
        return ticket
