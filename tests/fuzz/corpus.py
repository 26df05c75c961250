"""What fuzzing starts from: every row of the tables of requests and answers."""

from __future__ import annotations

from tests.unit.http.smuggling import NEXT, TABLE
from tests.unit.http.test_hostile_worker import READ, REFUSED


def seeds(name: str) -> list[bytes]:
    """Return the inputs of a target; their first byte says how they are cut."""
    if name == "requests":
        sent = [row.sent + NEXT for row in TABLE]
    else:
        sent = [answer for answer, _ in READ.values()] + list(REFUSED.values())
    return [bytes([i % 23]) + data for i, data in enumerate(sent) if len(data) < 4096]
