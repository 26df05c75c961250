"""A pair of sockets between two router processes, inherited: frames in order, and an end when either process ends."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from contextlib import suppress
from socket import socket
from typing import cast

from tercet.core.faults import whence
from tercet.router.processes.wire import Kind

log = logging.getLogger(__name__)

_HEAD = struct.Struct(">IB")
MAX_FRAME = 256 << 20
"""A worker's models and a request for an admin's eyes are far smaller; a prompt of 64 MiB has 8 MiB of hashes."""

OnFrame = Callable[[Kind, bytes], None]


class Pipe(asyncio.Protocol):
    """One end. `on_frame` is called with each frame, `on_end` once, when the other end is gone."""

    def __init__(self, on_frame: OnFrame, on_end: Callable[[], None]) -> None:
        self._on_frame, self._on_end = on_frame, on_end
        self._read = bytearray()
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()

    @classmethod
    async def over(cls, end: socket, on_frame: OnFrame, on_end: Callable[[], None]) -> Pipe:
        """Take a connected socket."""
        pipe = cls(on_frame, on_end)
        end.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: pipe, sock=end)
        return pipe

    @property
    def waiting_bytes(self) -> int:
        """How much the other end has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """Write a frame; nothing when the other end is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_HEAD.pack(len(body), kind) + body)

    async def finish(self, timeout_s: float) -> None:
        """Let go once the other end has read what was sent, or does not read for too long."""
        if self._transport is not None:
            self._transport.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._ended.wait()
        self.close()

    def close(self) -> None:
        """Let go."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on every frame that is whole."""
        read = self._read
        read += data
        at = 0
        while len(read) - at >= _HEAD.size:
            length, kind = _HEAD.unpack_from(read, at)
            if length > MAX_FRAME:
                self.close()
                return
            end = at + _HEAD.size + length
            if len(read) < end:
                break
            try:
                self._on_frame(Kind(kind), bytes(read[at + _HEAD.size : end]))
            except Exception as error:  # noqa: BLE001 - the boundary: what one process tells must not end the other
                log.error("frame %d of another router process was not understood: %s", kind, whence(error))
            at = end
        del read[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who listens."""
        self._transport = None
        self._ended.set()
        self._on_end()
