"""The pictures of sequences, before a real pool whose tickets are out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from tercet.core.image import ImageInput, ImageSpan
from tercet.core.image_ticket import ImageTicket
from tercet.core.sampling import SamplingParams
from tercet.engine.sequence import Sequence
from tercet.worker.picture_tickets import PictureTickets
from tercet.worker.remote_images import RemoteImages
from tests.unit.worker.test_encode_service import ROWS, Stage


class Nobody:
    """Holds no tickets of other engines."""

    def hold(self, sequence_id: str, tickets: list[ImageTicket]) -> None:
        assert not tickets


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage(3)
    yield stage
    stage.server.close()


def with_picture(ticket: ImageTicket) -> tuple[Sequence, tuple[ImageInput, ...]]:
    image = ImageInput(ImageSpan(ticket.key, 0, ROWS), ticket)
    tokens = [1] * (ROWS + 1)
    sequence = Sequence("s", tokens, len(tokens), SamplingParams(1), 0.0, b"", images=(image.span,))
    return sequence, (image,)


def test_a_ticket_of_ours_becomes_the_sequences_own_lease(stage: Stage) -> None:
    ticket = stage.ticket("a")
    tickets = PictureTickets(stage.store, cast(RemoteImages, Nobody()), stage.issued)
    sequence, images = with_picture(ticket)
    tickets.take(sequence, images)
    assert sequence.owned == {"a"}
    entry = stage.pool.get("a")
    stage.step()
    assert entry is not None and entry.leases == 1, "the ticket's only share was taken"


@pytest.mark.parametrize("other", ["b", "never seen"])
def test_a_ticket_of_ours_that_names_another_picture_is_as_good_as_none(stage: Stage, other: str) -> None:
    ticket = stage.ticket("a")
    stage.ticket("b")
    tickets = PictureTickets(stage.store, cast(RemoteImages, Nobody()), stage.issued)
    sequence, images = with_picture(replace(ticket, key=other))
    tickets.take(sequence, images)
    assert not sequence.owned and stage.issued.is_out(ticket)
    held = stage.pool.get("b")
    assert held is not None and held.leases == 1
