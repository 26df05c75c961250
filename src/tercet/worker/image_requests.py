"""The front's requests for pictures to one engine: each gets an answer, in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from tercet.core.errors import RequestError
from tercet.engine.encoder import Pixels
from tercet.worker.channel import FrontChannel, Message
from tercet.worker.encoded_picture import PictureGroup
from tercet.worker.wire import ImageAnswer, Refusal, unpack_image_answer

ENCODE_TIMEOUT_S = 120.0
"""How long a picture may wait for its turn and be encoded; a large tower on one core takes seconds for each."""
MAX_UNDER_WAY = 16
"""Pictures whose pixels one engine has at a time, two batches: the others wait here, their pixels in the front. Not
those of a request that has some of its pictures: the engine may keep its room for the rest of them."""


class ImageRequests:
    """Owned by an EngineClient, in its event loop."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._answers: dict[str, asyncio.Future[ImageAnswer | Refusal | None]] = {}
        self._sent = 0
        self._turns: dict[asyncio.Future[None], str] = {}
        """Who waits for a turn, in order, by group."""
        self._begun: set[str] = set()
        """Groups that have a picture and want more."""

    @property
    def under_way(self) -> int:
        """Requests without an answer."""
        return len(self._answers)

    async def ask(
        self, channel: FrontChannel, request_id: str, key: str, group: PictureGroup, pixels: Pixels | None
    ) -> ImageAnswer | None:
        """Ask for a ticket, with the pixels of the picture unless it may be there. Raises RequestError."""
        wish = {"key": key, "readers": group.readers, "group": group.id, "pictures": group.pictures}
        message: Message = {"op": "image", "id": request_id, **wish, "pixels": None}
        if pixels is None:
            answer = await self._answer(channel, message)
        else:
            try:
                async with asyncio.timeout(ENCODE_TIMEOUT_S):
                    answer = await self._answer_in_turn(channel, message, pixels)
            except TimeoutError:
                raise self._too_slow() from None
        if answer is not None and group.pictures > 1 and group.id not in self._begun:
            self._begun.add(group.id)
            self._let_in([turn for turn, waiting in self._turns.items() if waiting == group.id])
        return answer

    def end_group(self, group: PictureGroup) -> None:
        """Note that nothing more is asked for a group."""
        self._begun.discard(group.id)

    async def probe(self, channel: FrontChannel, request_id: str) -> None:
        """Have a blank picture encoded. Raises RequestError."""
        await self._answer(channel, {"op": "probe_image", "id": request_id})

    def answered(self, message: dict[str, Any]) -> str | None:
        """Take an answer; return the id of its ticket if nobody waits for it any more."""
        answer = unpack_image_answer(message)
        future = self._answers.get(message["id"])
        if future is not None and not future.done():
            future.set_result(answer)
            return None
        return answer.ticket.id if isinstance(answer, ImageAnswer) else None

    def fail(self, refusal: Refusal) -> None:
        """Answer everybody: the engine has ended, or is about to."""
        status = 503 if refusal.code == "engine_dead" else refusal.status
        for future in self._answers.values():
            if not future.done():
                future.set_result(Refusal(status, refusal.message, refusal.code))

    async def _answer_in_turn(self, channel: FrontChannel, message: Message, pixels: Pixels) -> ImageAnswer | None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns[turn] = message["group"]
        if self._sent < MAX_UNDER_WAY or message["group"] in self._begun:
            self._let_in((turn,))
        try:
            await turn
            data = np.ascontiguousarray(pixels).data.cast("B")
            message |= {"pixels": data, "dtype": pixels.dtype.str, "shape": pixels.shape}
            return await self._answer(channel, message)
        finally:
            if self._turns.pop(turn, None) is None:  # it was let in
                self._sent -= 1
                if self._sent < MAX_UNDER_WAY:
                    self._let_in([turn for turn in self._turns if not turn.done()][:1])

    def _let_in(self, turns: Iterable[asyncio.Future[None]]) -> None:
        """Give these their turn, but for those whose task was cancelled just now."""
        for turn in turns:
            if not turn.done():
                del self._turns[turn]
                self._sent += 1
                turn.set_result(None)

    async def _answer(self, channel: FrontChannel, message: Message) -> ImageAnswer | None:
        """Send a message, wait for what the engine says to it. A ticket that comes too late is released."""
        request_id = message["id"]
        future: asyncio.Future[ImageAnswer | Refusal | None] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = future
        try:
            async with asyncio.timeout(ENCODE_TIMEOUT_S):
                await channel.send({**message, "sent": time.monotonic()})
                answer = await future
        except TimeoutError:
            raise self._too_slow() from None
        except asyncio.CancelledError:
            if _has_answer(future) and isinstance(late := future.result(), ImageAnswer):
                channel.send_now({"op": "release_image", "ticket_id": late.ticket.id})
            raise
        finally:
            del self._answers[request_id]
            if not _has_answer(future):
                channel.send_now({"op": "cancel_image", "id": request_id})
        if isinstance(answer, Refusal):
            raise RequestError(answer.status, answer.message, code=answer.code, param=answer.param)
        return answer

    def _too_slow(self) -> RequestError:
        return RequestError(
            504, f"the engine {self._engine} did not encode the picture within {ENCODE_TIMEOUT_S:g} s", code="timeout"
        )


def _has_answer(future: asyncio.Future[ImageAnswer | Refusal | None]) -> bool:
    """False while the engine has said nothing: a task that is cancelled, or out of time, cancels what it waits for."""
    return future.done() and not future.cancelled()
