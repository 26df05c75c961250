from __future__ import annotations

from dataclasses import replace

import pytest

from tercet.core.errors import TicketError
from tercet.core.image import ImageInput, ImageSpan, image_key
from tercet.core.image_ticket import ImageTicket
from tercet.core.ticket import Ticket
from tests.unit.worker.test_wire import TICKET

IMAGE_TICKET = ImageTicket(
    id="image-1",
    key="k",
    engine_id="e",
    rank=0,
    fingerprint="v",
    tokens=20,
    block_ids=(3, 1),
    control="tcp://127.0.0.1:1",
    addresses={"tcp": {"endpoint": "tcp://127.0.0.1:2"}},
    lease_s=30.0,
    expires_at=5.0,
)


def test_a_ticket_survives_its_parameters() -> None:
    assert Ticket.from_params(TICKET.to_params()) == TICKET
    said = replace(TICKET, cached_tokens=7)
    assert Ticket.from_params(said.to_params()) == said


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"first_token": None},
        {"prompt_token_ids": "abc"},
        {"remote_block_ids": [1]},
        {"seed": None},
        {"images": [{}]},
        {"remote_prefill_cached_tokens": "many"},
        {"ticket_id": "t\n2026-01-01 INFO forged"},
        {"remote_engine_id": "\x1b[2J"},
        {"ticket_id": ""},
    ],
)
def test_a_wrong_ticket_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TicketError):
        Ticket.from_params({**TICKET.to_params(), **change})


def test_a_missing_field_is_refused() -> None:
    params = TICKET.to_params()
    del params["control"]
    with pytest.raises(TicketError, match="control"):
        Ticket.from_params(params)


def seeing(*images: ImageInput) -> Ticket:
    return replace(TICKET, token_ids=tuple(range(32)), images=images)


def test_pictures_and_their_tickets_survive() -> None:
    ticket = seeing(ImageInput(ImageSpan("k", 0, 20), IMAGE_TICKET), ImageInput(ImageSpan("l", 20, 3)))
    assert Ticket.from_params(ticket.to_params()) == ticket


@pytest.mark.parametrize(
    "images",
    [
        [ImageInput(ImageSpan("k", 0, 1000))],
        [ImageInput(ImageSpan("k", 2, 2)), ImageInput(ImageSpan("k", 3, 2))],
        [ImageInput(ImageSpan("k", 0, 0))],
        [ImageInput(ImageSpan("other", 0, 20), IMAGE_TICKET)],
        [ImageInput(ImageSpan("k", 0, 19), IMAGE_TICKET)],
    ],
)
def test_pictures_that_do_not_fit_the_prompt_are_refused(images: list[ImageInput]) -> None:
    with pytest.raises(TicketError, match="picture"):
        Ticket.from_params(seeing(*images).to_params())


@pytest.mark.parametrize(
    "change",
    [
        *({"version": 2}, {"tokens": 16}, {"tokens": 0}, {"remote_block_ids": 3}, {"addresses": 4}, {"key": None}),
        *({"ticket_id": "t\n2026-01-01 INFO forged"}, {"remote_engine_id": "\x1b[2J"}),
    ],
)
def test_a_wrong_image_ticket_is_refused(change: dict[str, object]) -> None:
    params = {**IMAGE_TICKET.to_params(), **change}
    if change == {"key": None}:
        del params["key"]
    with pytest.raises(TicketError):
        ImageTicket.from_params(params)


def test_the_same_bytes_have_the_same_key() -> None:
    assert image_key(b"png") == image_key(b"png") != image_key(b"gif")


def test_tickets_compare_by_value() -> None:
    assert replace(TICKET, seed=8) != TICKET
