"""Pictures in a prompt: what names one, where its tokens lie, and what they came with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tercet.core.errors import TicketError
from tercet.core.image_ticket import ImageTicket


def image_key(data: bytes) -> str:
    """Return what names a picture: the SHA-256, in hex, of its source bytes (the PNG or JPEG file)."""
    return sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Tokens [start, start + length) of a prompt stand for the picture `key`.

    Row i of its embeddings, [length, hidden], goes in where token start + i's own would.
    """

    key: str
    start: int
    length: int

    @property
    def end(self) -> int:
        """The first position after the picture."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One picture of a prompt, and the ticket under which its embeddings can be read; None when there is none."""

    span: ImageSpan
    ticket: ImageTicket | None = None

    def to_params(self) -> dict[str, Any]:
        """Return a JSON object."""
        span, ticket = self.span, self.ticket
        return {
            "key": span.key,
            "start": span.start,
            "length": span.length,
            "ticket": None if ticket is None else ticket.to_params(),
        }

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> ImageInput:
        """Read what `to_params` wrote. Raises TicketError when it is malformed."""
        try:
            span = ImageSpan(str(params["key"]), int(params["start"]), int(params["length"]))
            ticket = params["ticket"]
        except (KeyError, TypeError, ValueError) as error:
            raise TicketError(f"malformed picture in a ticket: {error!r}") from error
        return cls(span, None if ticket is None else ImageTicket.from_params(ticket))


def check_images(images: Sequence[ImageInput], tokens: int) -> None:
    """Raise TicketError unless the pictures lie in order and apart within `tokens` tokens, and fit their tickets.

    One that is there twice is as long both times: it has one set of rows.
    """
    end = 0
    lengths: dict[str, int] = {}
    for number, image in enumerate(images):
        span, ticket = image.span, image.ticket
        if span.start < end or span.length < 1 or span.end > tokens:
            raise TicketError(f"picture {number} covers tokens {span.start} to {span.end} of {tokens}, or of another")
        if ticket is not None and (ticket.key != span.key or ticket.tokens != span.length):
            raise TicketError(f"picture {number} has the ticket of another picture")
        if lengths.setdefault(span.key, span.length) != span.length:
            raise TicketError(f"picture {number} has {span.length} tokens, and {lengths[span.key]} before")
        end = span.end
