from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tercet.transfer import leases as module
from tercet.transfer.leases import LeaseEvent, LeaseTable


def table_with(*ticket_ids: str) -> LeaseTable:
    table = LeaseTable()
    for ticket_id in ticket_ids:
        table.grant(ticket_id, [3, 4], 10.0)
    return table


def test_a_lease_ends_once() -> None:
    table = table_with("a")
    assert table.blocks("a") == (3, 4)
    assert table.release("a", True)
    assert not table.release("a", True)
    assert not table.renew("a", 20.0)
    assert table.blocks("a") is None
    assert table.drain() == [LeaseEvent("a", None, True)]
    assert table.drain() == []


def test_renewal_never_shortens_and_is_told_once() -> None:
    table = table_with("a")
    assert table.renew("a", 30.0)
    assert table.renew("a", 20.0)
    assert table.drain() == [LeaseEvent("a", 30.0)]


def test_release_swallows_the_renewals_before_it() -> None:
    table = table_with("a")
    table.renew("a", 30.0)
    table.release("a", False)
    assert table.drain() == [LeaseEvent("a", None, False)]


def test_revoking_is_silent_and_final() -> None:
    table = table_with("a", "b")
    table.renew("a", 30.0)
    table.revoke("a")
    table.revoke("unknown")
    assert not table.release("a", True)
    assert table.drain() == []
    assert len(table) == 1


def test_what_a_ticket_covers() -> None:
    table = table_with("a")
    assert table.covers("a", [3]) is True
    assert table.covers("a", [3, 5]) is False
    assert table.covers("unknown", [3]) is None


def test_nonces_are_remembered_while_the_ticket_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_with("a")
    assert table.first_use("a", b"1")
    assert not table.first_use("a", b"1")
    assert table.first_use("unknown", b"1")
    assert table.first_use("unknown", b"1")
    monkeypatch.setattr(module, "MAX_MESSAGES_PER_TICKET", 2)
    assert table.first_use("a", b"2")
    assert not table.first_use("a", b"3")


def test_racing_releases_have_one_winner() -> None:
    names = [str(i) for i in range(300)]
    table = table_with(*names)
    with ThreadPoolExecutor(8) as threads:
        wins = list(threads.map(lambda name: table.release(name, True), names * 4))
    assert sum(wins) == len(names)
    assert len(table.drain()) == len(names)
