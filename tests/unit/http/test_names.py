"""Names whose servers say nothing cost nobody but who asks for them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from tercet.http.client import Client, ClientError
from tercet.http.names import Names, is_address
from tercet.http.server import Request, Responder

from .wires import PATIENCE_S, serving, url


class Servers:
    """Name servers of which some say nothing before `end`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._over = threading.Event()

    def look(self, name: str, _port: int) -> list[str]:
        self.asked[name] += 1
        if name.startswith("silent"):
            self._over.wait(PATIENCE_S)
        if name.startswith(("silent", "unknown")):
            raise OSError(-3, "nobody answers for it")
        return ["::1", "127.0.0.1"] if name == "two" else ["127.0.0.1"]

    def end(self) -> None:
        self._over.set()


@asynccontextmanager
async def answering() -> AsyncIterator[tuple[str, Servers, Client]]:
    async def handle(_request: Request, responder: Responder) -> None:
        await responder.send(200, b"here")

    servers = Servers()
    try:
        async with serving(handle) as server:
            http = Client(look=servers.look, connect_timeout_s=PATIENCE_S)
            try:
                yield url(server).replace("127.0.0.1", "NAME"), servers, http
            finally:
                await http.close()
    finally:
        servers.end()


async def _get(http: Client, where: str) -> bytes:
    return await (await http.request("GET", where, headers=[("Connection", "close")])).read()


def test_names_that_nobody_answers_for_keep_no_other_from_being_found() -> None:
    async def ask() -> None:
        async with answering() as (where, servers, http):
            lost = [asyncio.create_task(_get(http, where.replace("NAME", f"silent-{i}"))) for i in range(40)]
            await asyncio.sleep(0)
            for name in ("one", "two", "127.0.0.1"):
                assert await asyncio.wait_for(_get(http, where.replace("NAME", name)), PATIENCE_S / 2) == b"here"
            assert not any(task.done() for task in lost)
            servers.end()
            for task in lost:
                with pytest.raises(ClientError, match="cannot connect to silent-") as failure:
                    await task
                assert failure.value.reason == "connect"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the routers', whose threads are fewest
        runner.run(ask())


async def test_a_name_is_looked_up_once_for_all_who_wait_for_it() -> None:
    servers = Servers()
    names = Names(servers.look)
    waiting = [asyncio.create_task(names.addresses("silent", 1)) for _ in range(30)]
    await asyncio.sleep(0)
    waiting.pop().cancel()  # who waits no more takes nothing from the others
    servers.end()
    for answer in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE_S):
        assert isinstance(answer, OSError)
    assert servers.asked["silent"] == 1
    assert await names.addresses("one", 1) == await names.addresses("one", 1) == ["127.0.0.1"]
    assert servers.asked["one"] == 2, "what a name stands for may change"


async def test_a_name_without_an_address_can_not_be_connected_to() -> None:
    async with answering() as (where, _, http):
        with pytest.raises(ClientError, match="nobody answers for it") as failure:
            await _get(http, where.replace("NAME", "unknown"))
        assert failure.value.reason == "connect" and failure.value.before_first_byte


def test_an_answer_that_comes_after_the_loops_end_is_nobodys() -> None:
    servers = Servers()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Names(servers.look).addresses("silent", 1), 0.01)

    before = set(threading.enumerate())
    asyncio.run(leave())
    (asking,) = set(threading.enumerate()) - before
    servers.end()
    asking.join(PATIENCE_S)
    assert not asking.is_alive()


def test_what_is_looked_up() -> None:
    assert is_address("127.0.0.1") and is_address("::1")
    assert not is_address("localhost") and not is_address("1.2.3") and not is_address("a\0b")
