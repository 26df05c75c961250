"""Messages between a front and one engine: msgpack maps through a socket pair.

A pair has no name that a stranger could connect to, leaves no file, tells at once when the other side is dead, and
costs no threads of its own: on a core that the model keeps busy a step's tokens reach the front in half the time that
ZeroMQ's I/O threads need, for 150 us of CPU instead of 400 (benchmarks/worker/channel_latency.py). No pickle: an engine
never runs what it is sent.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from collections.abc import Callable
from typing import Any, cast

import msgpack

from tercet.core.errors import TercetError

log = logging.getLogger(__name__)

Message = dict[str, Any]

READ_BYTES = 256 * 1024
MAX_BUFFER_BYTES = 64 * 1024 * 1024
"""Bound of what may have arrived and not been read; the largest message is a sequence of a few hundred KiB."""
SEND_TIMEOUT_S = 60.0
"""A front that reads nothing for so long is stuck."""


class ChannelError(TercetError):
    """The other side is gone, does not read, or sent what is no message."""


def pack(message: Message) -> bytes:
    """Serialise one message. Raises ValueError or OverflowError for what msgpack can't hold."""
    return bytes(msgpack.packb(message))


class Unpacker:
    """Cuts the bytes that arrive into messages."""

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=MAX_BUFFER_BYTES)

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes. Raises ChannelError for anything but maps."""
        try:
            self._unpacker.feed(data)
            messages = list(self._unpacker)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise ChannelError(f"bytes that are no message: {error!r}") from error
        for message in messages:
            if not isinstance(message, dict):
                raise ChannelError(f"a message between front and engine must be a map, not {type(message).__name__}")
        return messages


class EngineChannel:
    """The engine's end, used by one thread. Reading never waits; writing waits for the front up to a deadline."""

    def __init__(self, end: socket.socket, *, send_timeout_s: float = SEND_TIMEOUT_S) -> None:
        end.setblocking(False)
        self._socket = end
        self._unpacker = Unpacker()
        self._send_timeout_s = send_timeout_s
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(end, select.POLLIN)
        self._writable.register(end, select.POLLOUT)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def receive(self) -> list[Message]:
        """Return what has arrived, possibly nothing. Raises ChannelError when the front is gone."""
        messages: list[Message] = []
        while self._readable.poll(0):
            try:
                data = self._socket.recv(READ_BYTES)
            except OSError as error:
                raise ChannelError(f"the front is gone: {error}") from error
            if not data:
                raise ChannelError("the front is gone")
            messages += self._unpacker.feed(data)
            if len(data) < READ_BYTES:
                break
        return messages

    def send(self, message: Message) -> None:
        """Send one message. Raises ChannelError when the front is gone or does not read."""
        left = memoryview(pack(message))
        deadline = time.monotonic() + self._send_timeout_s
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                wait = deadline - time.monotonic()
                if wait <= 0 or not self._writable.poll(wait * 1000):
                    raise ChannelError(f"the front read nothing for {self._send_timeout_s:g} s") from None
            except OSError as error:
                raise ChannelError(f"the front is gone: {error}") from error

    def close(self) -> None:
        """Close this end; what was sent still arrives."""
        self._socket.close()


class FrontChannel(asyncio.Protocol):
    """The front's end, on the event loop. `on_message` is called for each message as it arrives."""

    def __init__(self, on_message: Callable[[Message], None]) -> None:
        self._on_message = on_message
        self._unpacker = Unpacker()
        self._transport: asyncio.Transport | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.closed = asyncio.Event()
        """Set when the engine has closed its end, by dying in most cases."""
        self.heard = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the engine last sent anything."""
        return time.monotonic() - self.heard

    def pardon(self, seconds: float) -> None:
        """Do not hold it against the engine that it was silent for so long: this process stood still then, as when a
        machine pauses."""
        if seconds > 0:
            self.heard = min(self.heard + seconds, time.monotonic())

    async def send(self, message: Message) -> None:
        """Send one message, once there is room. Does nothing when the engine is gone: `closed` tells."""
        data = pack(message)
        await self._room.wait()
        self._write(data)

    def send_now(self, message: Message) -> None:
        """Send a message of a few bytes at once, room or not."""
        self._write(pack(message))

    def close(self) -> None:
        """Let go of the socket."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # --- the transport's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on every message that is complete. A fault here ends the channel, and with it the engine."""
        self.heard = time.monotonic()
        try:
            for message in self._unpacker.feed(data):
                self._on_message(message)
        except Exception:
            log.exception("reading from the engine failed")
            self.close()

    def pause_writing(self) -> None:
        """The engine is in a long step: submissions wait."""
        self._room.clear()

    def resume_writing(self) -> None:
        """The engine reads on."""
        self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The engine is gone."""
        self._room.set()
        self.closed.set()
