from __future__ import annotations

from dataclasses import replace

import pytest

from tercet.core.errors import TicketError
from tercet.core.ticket import Ticket
from tests.unit.worker.test_wire import TICKET


def test_a_ticket_survives_its_parameters() -> None:
    assert Ticket.from_params(TICKET.to_params()) == TICKET


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"first_token": None}, {"prompt_token_ids": "abc"}, {"remote_block_ids": [1]}, {"seed": None}],
)
def test_a_wrong_ticket_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TicketError):
        Ticket.from_params({**TICKET.to_params(), **change})


def test_a_missing_field_is_refused() -> None:
    params = TICKET.to_params()
    del params["control"]
    with pytest.raises(TicketError, match="control"):
        Ticket.from_params(params)


def test_tickets_compare_by_value() -> None:
    assert replace(TICKET, seed=8) != TICKET
