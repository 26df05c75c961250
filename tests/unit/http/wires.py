"""Raw sockets for tests: what a well-behaved client would never send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tercet.http.client import Client
from tercet.http.server import Handler, Request, Responder, Server

PATIENCE_S = 30.0
"""How long a test waits before it says that something hangs; a busy machine may stand still for seconds."""


class RawClient:
    """A TCP connection that reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        text = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).decode("latin-1")
        first, *lines = text[:-4].split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), PATIENCE_S), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
            return status, headers, body
        if "content-length" in headers:
            return (
                status,
                headers,
                await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), PATIENCE_S),
            )
        return status, headers, await self.rest()

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), PATIENCE_S)

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def serving(handler: Handler, **limits: float) -> AsyncIterator[Server]:
    server = Server(handler, port=0, **limits)  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.close(0)


@asynccontextmanager
async def raw_serving(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that says exactly what `talk` writes. Yields its URL."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def client(**settings: float) -> AsyncIterator[Client]:
    # Two seconds for a connection, as by itself, are too few where a busy machine makes hundreds at once.
    made = Client(**{"connect_timeout_s": 60.0, **settings})  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


async def connect(server: Server) -> RawClient:
    return RawClient(*await asyncio.open_connection("127.0.0.1", server.port))


def url(server: Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


async def echo(request: Request, responder: Responder) -> None:
    """Answer with what was understood of the request."""
    seen = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": dict(request.headers),
        "body": request.body.decode("latin-1"),
    }
    await responder.send(200, json.dumps(seen).encode())


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait for `condition`, failing when it takes too long."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def settled(value: Callable[[], int]) -> int:
    """Return what `value` is once it stays the same while the event loop goes round."""
    last, looks = value(), 0
    async with asyncio.timeout(PATIENCE_S):
        while looks < 20:
            await asyncio.sleep(0.01)
            looks = looks + 1 if value() == last else 0
            last = value()
    return last
