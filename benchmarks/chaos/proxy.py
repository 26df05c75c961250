"""A TCP proxy that does to connections what networks do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

PIECE = 65536


class FaultProxy:
    """Passes on to `port` of this machine. Knobs, to be turned while it runs: `delay_s` before each piece, `frozen`
    passes nothing on, `refusing` closes what is opened; `cut` breaks everything that is open."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self.delay_s = 0.0
        self.refusing = False
        self.port = 0

    async def start(self, taken: Collection[int] = ()) -> None:
        """Listen on any free port but those `taken`: on its worker's, which is still to start, it would call itself."""
        while self._server is None or self.port in taken:
            server, self._server = self._server, await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = int(self._server.sockets[0].getsockname()[1])
            if server is not None:
                server.close()

    async def close(self) -> None:
        """Stop, and break what is open."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every open connection, in the middle of whatever it carries."""
        for writer in set(self._open):
            writer.transport.abort()

    def freeze(self, frozen: bool) -> None:
        """Let nothing through, or let it flow again."""
        (self._thawed.clear if frozen else self._thawed.set)()

    def heal(self) -> None:
        """Behave."""
        self.delay_s, self.refusing = 0.0, False
        self.freeze(False)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            back, there = await asyncio.open_connection("127.0.0.1", self._to)
            self._open.add(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there))
                group.create_task(self._pass(back, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # an end that broke is what this is for
        finally:
            for end in (writer, there):
                if end is not None:
                    self._open.discard(end)
                    end.transport.abort() if self.refusing else end.close()
            self._tasks.discard(task)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(PIECE):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._thawed.wait()
            sink.write(piece)
            await sink.drain()
        with contextlib.suppress(OSError):
            sink.write_eof()
