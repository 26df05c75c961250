"""One engine process as its front sees it: started, talked to, ended, its traces swept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tercet.core.secret import SECRET_VARIABLE
from tercet.transfer.pool import sweep
from tercet.worker.channel import FrontChannel, Message
from tercet.worker.config import EngineConfig

ENGINE_COMMAND = (sys.executable, "-P", "-m", "tercet.worker.engine_process")
STOP_TIMEOUT_S = 1.5
"""What an engine gets to end its step and go; it leaves nothing that can't be swept."""


class EngineChild:
    """A running engine process. Start it in the thread whose end shall be its end: the event loop's."""

    def __init__(self, process: asyncio.subprocess.Process, channel: FrontChannel, topology_id: str) -> None:
        self._process = process
        self._topology_id = topology_id
        self.channel = channel
        self.pid = process.pid
        self.exited = asyncio.create_task(process.wait())
        """Its exit code; a signal's number negated when one ended it."""

    @classmethod
    async def start(
        cls, config: EngineConfig, secret: bytes, on_message: Callable[[Message], None], command: Sequence[str]
    ) -> EngineChild:
        """Start `command` with the channel and our process id as arguments, and tell it its configuration.

        Raises OSError.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            _, channel = await loop.create_unix_connection(lambda: FrontChannel(on_message), sock=ours)
            channel.send_now({"op": "start", "config": config.to_json(), "secret": secret})
            env = {name: value for name, value in os.environ.items() if name != SECRET_VARIABLE}
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(theirs.fileno()),
                    str(os.getpid()),
                    env={**env, "TOKENIZERS_PARALLELISM": "false"},
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                channel.close()
                raise
        return cls(process, channel, config.topology_id)

    async def wait(self, *others: asyncio.Future[Any], timeout_s: float) -> None:
        """Return when the process or one of `others` has ended, or the engine's end is closed. Raises TimeoutError."""
        closed = asyncio.create_task(self.channel.closed.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {closed, self.exited, *others}
            done, _ = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if not done:
            raise TimeoutError

    async def end(self, *, politely: bool) -> int:
        """End it, at once or after its step, and remove what it left; return its exit code."""
        if politely:
            self.channel.send_now({"op": "stop"})
            await asyncio.wait({self.exited}, timeout=STOP_TIMEOUT_S)
        elif self.channel.closed.is_set():
            # It is ending by itself: its exit code says more than ours would.
            await asyncio.wait({self.exited}, timeout=STOP_TIMEOUT_S)
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        code = await self.exited
        self.channel.close()
        sweep(self._topology_id)
        return code
