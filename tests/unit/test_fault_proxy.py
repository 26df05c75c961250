"""The fault proxy of the chaos test does what it says, or the chaos test proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest
from benchmarks.chaos.proxy import FaultProxy


@asynccontextmanager
async def echoing() -> AsyncIterator[FaultProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = FaultProxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    yield proxy
    await proxy.close()
    server.close()


async def test_it_passes_on_delays_freezes_cuts_and_refuses() -> None:
    async with echoing() as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

        async def said(text: bytes) -> bytes:
            writer.write(text)
            return await asyncio.wait_for(reader.readexactly(len(text)), 30)

        assert await said(b"hello") == b"hello"
        proxy.delay_s = 0.1
        began = monotonic()
        assert await said(b"slow") == b"slow" and monotonic() - began >= 0.2
        proxy.heal()
        proxy.freeze(True)
        writer.write(b"late")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        proxy.heal()
        assert await asyncio.wait_for(reader.readexactly(4), 30) == b"late"
        proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await said(b"x")
            await said(b"x")
        writer.close()
        proxy.refusing = True
        other, closing = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(other.readexactly(1), 30)
        closing.close()
