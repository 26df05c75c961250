"""Sends legs: the only place where the router speaks to workers for a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from tercet.core.errors import RequestError
from tercet.core.stage import Stage
from tercet.dialects.protocol import Answer, Failure, Leg
from tercet.http.client import Client, ClientError, Response
from tercet.router.live import Live

CONTROL_TIMEOUT_S = 5.0
TOO_MANY = "too_many_connections"

_CONNECTION = frozenset({"connect", "connect_timeout", "closed", "protocol"})
_UNSAID = {
    "connect": "no connection",
    "connect_timeout": "no connection in time",
    TOO_MANY: "no connection: too many are open",
}
"""For clients, who know workers by their labels: the error's own words hold an address."""


class Sender:
    """Knows the deadlines, and how large a whole answer may be."""

    def __init__(self, client: Client, live: Live, max_answer_bytes: int) -> None:
        self._client, self._live, self.max_answer_bytes = client, live, max_answer_bytes

    def open(self, leg: Leg, on_begin: Callable[[Response], None] | None = None) -> Coroutine[Any, Any, Response]:
        """Send a leg; return when the head of its answer is there. Raises ClientError."""
        live = self._live
        if leg.stage is Stage.ENCODE:
            first_byte_timeout_s = live.encode_timeout_s
        elif leg.streams or leg.stage is Stage.PREFILL:
            first_byte_timeout_s = live.first_byte_timeout_s
        else:
            first_byte_timeout_s = live.answer_timeout_s
        return self._client.request(
            leg.method,
            (leg.base or leg.rank.url) + leg.path,
            headers=leg.headers,
            body=leg.make or leg.body,
            first_byte_timeout_s=first_byte_timeout_s,
            idle_timeout_s=live.idle_timeout_s,
            on_begin=on_begin,
        )

    async def whole(self, leg: Leg, on_begin: Callable[[Response], None] | None = None) -> Answer:
        """Send a leg and read its whole answer. Raises ClientError."""
        return await self.read(await self.open(leg, on_begin))

    async def read(self, response: Response) -> Answer:
        """Read the rest of an answer. Raises ClientError."""
        body = await response.read(max_bytes=self.max_answer_bytes)
        return Answer(response.status, response.headers, body)

    async def control(self, leg: Leg) -> Answer:
        """Send a leg that asks for no inference, with a short deadline. Raises ClientError."""
        response = await self._client.request(
            "POST",
            leg.url,
            headers=leg.headers,
            body=leg.body,
            first_byte_timeout_s=CONTROL_TIMEOUT_S,
            idle_timeout_s=CONTROL_TIMEOUT_S,
        )
        return await self.read(response)


def ended(task: asyncio.Task[Answer]) -> asyncio.Future[None]:
    """Return what is done when `task` is, and doesn't cancel it when it is cancelled: `asyncio.shield` does more, and
    takes three times as long."""
    done: asyncio.Future[None] = task.get_loop().create_future()
    task.add_done_callback(partial(_tell, done))
    return done


def _tell(done: asyncio.Future[None], task: asyncio.Task[Answer]) -> None:
    if not done.done():
        done.set_result(None)


def unanswered(worker: str, error: ClientError) -> RequestError:
    """Return what a client hears of a worker's silence or absence."""
    status, code = 502, "worker_unreachable"
    if error.reason in ("first_byte_timeout", "idle_timeout"):
        status, code = 504, "worker_timeout"
    elif error.reason == TOO_MANY:
        status, code = 503, TOO_MANY
    return RequestError(status, f"{worker} failed: {_UNSAID.get(error.reason, error)}", code=code)


def failure(leg: Leg, error: ClientError) -> Failure:
    """Return what a worker's silence or absence means. A connection that broke in the middle of an answer is worth
    another try, too: of an answer that is read whole, the client has seen nothing yet."""
    # To encode once more costs nobody anything, so a slow encoder is given up for another one too.
    retry = leg.stage is Stage.ENCODE or error.reason in _CONNECTION
    return Failure(unanswered(f"the {leg.stage} worker {leg.rank.label}", error), leg.rank, retry)
