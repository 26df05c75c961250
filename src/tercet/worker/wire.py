"""What front and engine tell each other about sequences, and how it is written in messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tercet.core.image import ImageInput, check_images
from tercet.core.image_ticket import ImageTicket
from tercet.core.sampling import SampledToken, SamplingParams
from tercet.core.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Submission:
    """One sequence for an engine. `hold` asks for a ticket instead of a whole answer.

    `images` are the prompt's pictures; with a KV ticket they replace those that the ticket names, if there are any.
    """

    id: str
    tokens: tuple[int, ...]
    sampling: SamplingParams
    root: bytes
    hold: bool = False
    ticket: Ticket | None = None
    images: tuple[ImageInput, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sequence's prompt KV came from and how long its ways took, in seconds; sent with its first token."""

    cached_tokens: int
    external_tokens: int
    recomputed: bool
    queue_s: float
    prefill_s: float
    transfer_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a sequence gets no (more) tokens: what a RequestError is made of."""

    status: int
    message: str
    code: str | None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """News of one sequence that are more than a token: its first one, logprobs, a ticket, an end.

    `ticket` comes with a held sequence's token and ends the sequence for the front, as `finish_reason` does.
    """

    id: str
    sampled: SampledToken | None
    finish_reason: str | None
    origin: Origin | None = None
    ticket: dict[str, Any] | None = None
    refusal: Refusal | None = None

    @property
    def ends(self) -> bool:
        """True when nothing follows."""
        return self.finish_reason is not None or self.ticket is not None


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """A picture's embeddings can be had under `ticket`. Times are in seconds.

    `cache` says how: they were here ("hit"), another request was having them made ("joined"), or made now ("miss").
    """

    ticket: ImageTicket
    cache: str
    queue_s: float
    encode_s: float


def pack_image_answer(
    request_id: str,
    ticket: ImageTicket | None,
    cache: str,
    queue_s: float,
    encode_s: float,
    refusal: Refusal | None,
) -> dict[str, Any]:
    """Return the `image` message; without ticket and refusal it says that the picture is not here."""
    return {
        "op": "image",
        "id": request_id,
        "ticket": None if ticket is None else ticket.to_params(),
        "cache": cache,
        "queue_s": queue_s,
        "encode_s": encode_s,
        "refusal": None if refusal is None else [refusal.status, refusal.message, refusal.code, refusal.param],
    }


def unpack_image_answer(message: dict[str, Any]) -> ImageAnswer | Refusal | None:
    """Read an `image` message."""
    if message["refusal"] is not None:
        return Refusal(*message["refusal"])
    if message["ticket"] is None:
        return None
    ticket = ImageTicket.from_params(message["ticket"])
    return ImageAnswer(ticket, message["cache"], message["queue_s"], message["encode_s"])


def pack_submission(item: Submission) -> dict[str, Any]:
    """Return the `add` message of a submission."""
    s = item.sampling
    return {
        "op": "add",
        "id": item.id,
        "tokens": item.tokens,
        "root": item.root,
        "hold": item.hold,
        "ticket": item.ticket.to_params() if item.ticket else None,
        "images": [image.to_params() for image in item.images],
        "sampling": [
            s.max_tokens,
            s.temperature,
            s.top_p,
            s.top_k,
            s.seed,
            list(s.stop_token_ids),
            s.ignore_eos,
            s.min_tokens,
            s.logprobs,
        ],
    }


def unpack_submission(message: dict[str, Any]) -> Submission:
    """Read an `add` message. Raises TicketError when what it says of tickets or pictures does not hold together."""
    max_tokens, temperature, top_p, top_k, seed, stops, ignore_eos, min_tokens, logprobs = message["sampling"]
    sampling = SamplingParams(
        max_tokens, temperature, top_p, top_k, seed, frozenset(stops), ignore_eos, min_tokens, logprobs
    )
    ticket = Ticket.from_params(message["ticket"]) if message["ticket"] else None
    images = tuple(ImageInput.from_params(image) for image in message["images"])
    check_images(images, len(message["tokens"] if ticket is None else ticket.token_ids))
    tokens = tuple(message["tokens"])
    return Submission(message["id"], tokens, sampling, message["root"], message["hold"], ticket, images)


def pack_delta(delta: Delta) -> list[Any]:
    """Return a compact list."""
    s, o, r = delta.sampled, delta.origin, delta.refusal
    return [
        delta.id,
        None if s is None else [s.token, s.logprob, s.top],
        delta.finish_reason,
        None if o is None else [o.cached_tokens, o.external_tokens, o.recomputed, o.queue_s, o.prefill_s, o.transfer_s],
        delta.ticket,
        None if r is None else [r.status, r.message, r.code, r.param],
    ]


def unpack_delta(data: list[Any]) -> Delta:
    """Read what `pack_delta` wrote."""
    sequence_id, sampled, finish_reason, origin, ticket, refusal = data
    if sampled is not None:
        token, logprob, top = sampled
        sampled = SampledToken(token, logprob, tuple((t, p) for t, p in top))
    return Delta(
        sequence_id,
        sampled,
        finish_reason,
        Origin(*origin) if origin else None,
        ticket,
        Refusal(*refusal) if refusal else None,
    )
