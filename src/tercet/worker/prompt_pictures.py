"""Reads what a request says of the pictures in its prompt: their places, and where their embeddings are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import RequestError, TicketError
from tercet.core.image import ImageInput, ImageSpan
from tercet.core.image_ticket import ImageTicket
from tercet.core.ticket import Ticket
from tercet.text.image_token import ImageToken
from tercet.text.tokenizer import ChatPrompt
from tercet.worker.encoded_picture import EncodedPicture
from tercet.worker.fields import bad, mapping


@dataclass(frozen=True, slots=True)
class PromptPicture:
    """A picture that stands for tokens [start, start + length): to be had from `url`, or already known as `key`."""

    where: str
    start: int
    length: int
    url: str | None = None
    key: str = ""
    ticket: ImageTicket | None = None


def prompt_pictures(body: dict[str, Any], prompt: ChatPrompt, token: ImageToken | None) -> tuple[PromptPicture, ...]:
    """Return the pictures of a chat, with the tickets that came with it. Raises RequestError 400."""
    if token is None:
        return ()
    tickets = _image_tickets(body, len(prompt.pictures))
    found = []
    for picture, start, ticket in zip(prompt.pictures, prompt.starts, tickets, strict=True):
        key = picture.key
        if picture.url is None:
            key = key or (ticket.key if ticket is not None else "")
            if not key:
                raise RequestError(
                    400, f"{picture.where} names no picture: neither key nor ticket", param=picture.where
                )
            if picture.tokens not in (0, token.count):
                raise _misfit(f"{picture.where} has {picture.tokens} tokens; this model's pictures have {token.count}")
        if ticket is not None and (ticket.key != key or ticket.tokens != token.count):
            raise _misfit(f"the ticket for {picture.where} is another picture's, or another model's")
        found.append(PromptPicture(picture.where, start, token.count, picture.url, key, ticket))
    return tuple(found)


def ticket_pictures(body: dict[str, Any], ticket: Ticket, token: ImageToken | None) -> tuple[PromptPicture, ...]:
    """Return the pictures of a prompt that came as a KV ticket; tickets for them in the request win over those in it.

    Raises RequestError 400.
    """
    if ticket.images and token is None:
        raise RequestError(
            400, "the ticket's prompt has pictures: this model takes text only", param="kv_transfer_params"
        )
    fresh = _image_tickets(body, len(ticket.images))
    found = []
    for number, (image, newer) in enumerate(zip(ticket.images, fresh, strict=True)):
        span = image.span
        if newer is not None and (newer.key != span.key or newer.tokens != span.length):
            raise _misfit(f"the ticket for picture {number} is another picture's, or another model's")
        where = f"kv_transfer_params.images[{number}]"
        found.append(PromptPicture(where, span.start, span.length, key=span.key, ticket=newer or image.ticket))
    return tuple(found)


def prompt_images(pictures: Sequence[PromptPicture], encoded: Sequence[EncodedPicture]) -> tuple[ImageInput, ...]:
    """Return the pictures as the engine takes them; `encoded` are those that had to be encoded first, in order."""
    made = iter(encoded)
    images = []
    for picture in pictures:
        key, ticket = picture.key, picture.ticket
        if picture.url is not None:
            own = next(made)
            key, ticket = own.key, own.answer.ticket
        images.append(ImageInput(ImageSpan(key, picture.start, picture.length), ticket))
    return tuple(images)


def _image_tickets(body: dict[str, Any], pictures: int) -> list[ImageTicket | None]:
    given = mapping(body, "ec_transfer_params").get("images")
    if given is None:
        return [None] * pictures
    if not isinstance(given, list) or len(given) != pictures:
        raise bad("ec_transfer_params", f"an object with a list of {pictures} images, one for each picture", given)
    try:
        return [None if params is None else ImageTicket.from_params(params) for params in given]
    except (TicketError, OverflowError) as error:
        raise _misfit(str(error)) from None


def _misfit(message: str) -> RequestError:
    return RequestError(400, message, code="ticket_mismatch", param="ec_transfer_params")
