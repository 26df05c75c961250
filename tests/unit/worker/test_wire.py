from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from tercet.core.errors import TicketError
from tercet.core.image import ImageInput, ImageSpan
from tercet.core.sampling import SampledToken, SamplingParams
from tercet.core.ticket import Ticket
from tercet.worker.wire import (
    Delta,
    Origin,
    Refusal,
    Submission,
    pack_delta,
    pack_submission,
    unpack_delta,
    unpack_submission,
)

TICKET = Ticket(
    id="t",
    engine_id="e",
    rank=1,
    fingerprint="f",
    block_size=16,
    token_ids=tuple(range(20)),
    block_ids=(3, 4),
    first=SampledToken(9, -0.5, ((9, -0.5), (2, -1.5))),
    seed=7,
    control="tcp://127.0.0.1:1",
    addresses={"shm": {"path": "x"}},
    lease_s=30.0,
    expires_at=1.5,
)


def over_the_wire(value: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(value), strict_map_key=False)


def test_a_submission_survives_the_wire() -> None:
    sampling = SamplingParams(5, 0.7, 0.9, 40, 123, frozenset({1, 2}), True, 2, 3)
    item = Submission("a", (1, 2, 3), sampling, b"root", hold=True, ticket=TICKET)
    assert unpack_submission(over_the_wire(pack_submission(item))) == item
    seeing = replace(item, ticket=None, images=(ImageInput(ImageSpan("k", 1, 2)),))
    assert unpack_submission(over_the_wire(pack_submission(seeing))) == seeing
    with pytest.raises(TicketError, match="picture 0"):
        unpack_submission(over_the_wire(pack_submission(replace(seeing, tokens=(1, 2)))))


@pytest.mark.parametrize(
    "delta",
    [
        Delta("a", SampledToken(5), None),
        Delta("a", SampledToken(5, -0.25, ((5, -0.25), (6, -2.0))), "stop"),
        Delta("a", None, "abort"),
        Delta("a", SampledToken(5), None, Origin(1, 2, True, 0.1, 0.2, 0.3), {"ticket_id": "t"}),
        Delta("a", None, "error", refusal=Refusal(409, "no", "images_needed", "0,2")),
    ],
)
def test_a_delta_survives_the_wire(delta: Delta) -> None:
    assert unpack_delta(over_the_wire(pack_delta(delta))) == delta
    assert delta.ends == (delta.finish_reason is not None or delta.ticket is not None)
