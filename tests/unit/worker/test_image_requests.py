"""The front's requests for pictures: what becomes of those whose client leaves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import numpy as np
import pytest

from tercet.core.errors import RequestError
from tercet.core.image_ticket import ImageTicket
from tercet.worker import image_requests
from tercet.worker.channel import FrontChannel, Message
from tercet.worker.encoded_picture import PictureGroup
from tercet.worker.image_requests import ImageRequests
from tercet.worker.wire import pack_image_answer

PIXELS = np.zeros((3, 1, 1), np.float32)
TICKET = ImageTicket("t", "k", "e", 0, "f", 1, (0,), "c", {}, 30.0, 99.0)


class Line:
    """A channel that notes what is said on it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    async def send(self, message: Message) -> None:
        self.send_now(message)

    def send_now(self, message: Message) -> None:
        self.said.append((message["op"], message.get("id") or message["ticket_id"]))


def asked(requests: ImageRequests, line: Line, *, pixels: bool) -> asyncio.Task[Any]:
    return asyncio.create_task(
        requests.ask(cast(FrontChannel, line), "1", "k", PictureGroup("g", 1, 1), PIXELS if pixels else None)
    )


async def sent(line: Line) -> None:
    while not line.said:
        await asyncio.sleep(0)


@pytest.mark.parametrize("pixels", [False, True])
async def test_the_engine_is_told_when_nobody_waits_any_more(pixels: bool) -> None:
    requests, line = ImageRequests("w@0"), Line()
    task = asked(requests, line, pixels=pixels)
    await sent(line)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert line.said == [("image", "1"), ("cancel_image", "1")]
    assert requests.under_way == 0


@pytest.mark.parametrize("pixels", [False, True])
async def test_the_engine_is_told_when_it_takes_too_long(pixels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_requests, "ENCODE_TIMEOUT_S", 0.2)
    requests, line = ImageRequests("w@0"), Line()
    with pytest.raises(RequestError) as caught:
        await asked(requests, line, pixels=pixels)
    assert caught.value.status == 504
    assert line.said == [("image", "1"), ("cancel_image", "1")]


async def test_a_ticket_that_came_as_the_client_left_is_given_back() -> None:
    requests, line = ImageRequests("w@0"), Line()
    task = asked(requests, line, pixels=True)
    await sent(line)
    assert requests.answered(pack_image_answer("1", TICKET, "miss", 0.0, 0.0, None)) is None
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert line.said == [("image", "1"), ("release_image", "t")]
