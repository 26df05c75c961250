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
from tercet.worker.image_requests import MAX_UNDER_WAY, ImageRequests
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


async def test_who_has_some_pictures_does_not_wait_behind_those_whom_the_engine_lets_wait_for_it() -> None:
    requests, line = ImageRequests("w@0"), Line()

    def ask(name: str, group: PictureGroup) -> asyncio.Task[Any]:
        return asyncio.create_task(requests.ask(cast(FrontChannel, line), name, name, group, PIXELS))

    async def settled() -> list[str]:
        for _ in range(5):
            await asyncio.sleep(0)
        return [name for _, name in line.said]

    mine = PictureGroup("mine", 3, 1)
    tasks = [ask("first", mine), *(ask(f"other-{i}", PictureGroup(f"{i}", 1, 1)) for i in range(MAX_UNDER_WAY))]
    tasks.append(ask("second", mine))
    assert len(await settled()) == MAX_UNDER_WAY, "the last of the others and the second wait"
    requests.answered(pack_image_answer("first", TICKET, "miss", 0.0, 0.0, None))
    assert (await settled())[MAX_UNDER_WAY:] == [f"other-{MAX_UNDER_WAY - 1}", "second"]
    tasks.append(ask("third", mine))
    assert (await settled())[-1] == "third"
    requests.end_group(mine)
    tasks.append(ask("fourth", mine))
    assert (await settled())[-1] == "third", "its turn has not come"
    tasks.append(ask("fifth", mine))
    await settled()
    tasks[-2].cancel()  # at once with those whose place it would get
    for task in tasks[:4]:
        task.cancel()
    assert (await settled())[-1] == "fifth"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert requests.under_way == 0


async def test_a_ticket_that_came_as_the_client_left_is_given_back() -> None:
    requests, line = ImageRequests("w@0"), Line()
    task = asked(requests, line, pixels=True)
    await sent(line)
    assert requests.answered(pack_image_answer("1", TICKET, "miss", 0.0, 0.0, None)) is None
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert line.said == [("image", "1"), ("release_image", "t")]
