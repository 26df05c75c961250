"""Tickets: proof and address of prefilled KV blocks, carried in `kv_transfer_params`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tercet.core.errors import TicketError
from tercet.core.ids import is_name
from tercet.core.image import ImageInput, check_images
from tercet.core.sampling import SampledToken

TICKET_VERSION = 2


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a prefill worker hands on.

    `token_ids` are the prompt's tokens (tokenised once); the blocks cover all of them. `first` is token 1, from P.
    `addresses` maps transport name -> what that transport's reader needs to reach the blocks.
    `cached_tokens` are those that P found in its prefix cache, None where it didn't say: D, which computed none,
    reports them as the request's.
    `images` are the prompt's pictures, each with the ticket of its embeddings, for a reader that must recompute.
    `control` is the ZeroMQ endpoint of P's handoff server (renew, release). `lease_s` is the lease's length and
    `expires_at` its first end in Unix seconds by P's clock: for display; only P decides whether a ticket lives.
    """

    id: str
    engine_id: str
    rank: int
    fingerprint: str
    block_size: int
    token_ids: tuple[int, ...]
    block_ids: tuple[int, ...]
    first: SampledToken
    seed: int
    control: str
    addresses: dict[str, dict[str, Any]]
    lease_s: float
    expires_at: float
    images: tuple[ImageInput, ...] = ()
    cached_tokens: int | None = None

    def to_params(self) -> dict[str, Any]:
        """Return the JSON object for `kv_transfer_params`; vLLM's field names where the same thing is meant."""
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "version": TICKET_VERSION,
            "ticket_id": self.id,
            "remote_engine_id": self.engine_id,
            "remote_rank": self.rank,
            "fingerprint": self.fingerprint,
            "block_size": self.block_size,
            "prompt_token_ids": list(self.token_ids),
            "remote_block_ids": list(self.block_ids),
            "first_token": {
                "id": self.first.token,
                "logprob": self.first.logprob,
                "top": [list(pair) for pair in self.first.top],
            },
            "seed": self.seed,
            "control": self.control,
            "addresses": self.addresses,
            "lease_s": self.lease_s,
            "remote_blocks_expiry_time": self.expires_at,
            "images": [image.to_params() for image in self.images],
            "remote_prefill_cached_tokens": self.cached_tokens,
        }

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> Ticket:
        """Read a ticket back. Raises TicketError when it is malformed or of another version."""
        if params.get("version") != TICKET_VERSION:
            raise TicketError(
                f"ticket version {params.get('version')!r} is not {TICKET_VERSION}: upgrade the older worker"
            )
        try:
            first, cached = params["first_token"], params.get("remote_prefill_cached_tokens")
            ticket = cls(
                id=str(params["ticket_id"]),
                engine_id=str(params["remote_engine_id"]),
                rank=int(params["remote_rank"]),
                fingerprint=str(params["fingerprint"]),
                block_size=int(params["block_size"]),
                token_ids=tuple(int(t) for t in params["prompt_token_ids"]),
                block_ids=tuple(int(b) for b in params["remote_block_ids"]),
                first=SampledToken(
                    int(first["id"]),
                    None if first["logprob"] is None else float(first["logprob"]),
                    tuple((int(t), float(p)) for t, p in first["top"]),
                ),
                seed=int(params["seed"]),
                control=str(params["control"]),
                addresses=dict(params["addresses"]),
                lease_s=float(params["lease_s"]),
                expires_at=float(params["remote_blocks_expiry_time"]),
                images=tuple(ImageInput.from_params(image) for image in params["images"]),
                cached_tokens=None if cached is None else int(cached),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TicketError(f"malformed ticket: {error!r}") from error
        if not (is_name(ticket.id) and is_name(ticket.engine_id)):
            raise TicketError("malformed ticket: its id or its engine's is none")
        if len(ticket.block_ids) != -(-len(ticket.token_ids) // max(ticket.block_size, 1)):
            raise TicketError(f"ticket names {len(ticket.block_ids)} blocks for {len(ticket.token_ids)} tokens")
        check_images(ticket.images, len(ticket.token_ids))
        return ticket
