"""One process that serves requests, as a program: `python -m tercet.router.processes.child FD`, started by the main
process."""

from __future__ import annotations

import asyncio
import signal
import sys
from socket import socket

import uvloop
from setproctitle import setproctitle

from tercet.core.errors import TercetError, UsageError
from tercet.router.app import close, collect_less
from tercet.router.config import RouterConfig
from tercet.router.processes.member import MemberRouter
from tercet.router.processes.pipe import Pipe
from tercet.router.processes.wire import Kind, decode
from tercet.router.request_log import set_up_logs

HELLO_S = 30.0


class Child:
    """Serves until it is told to stop, or the main process is gone; told twice it ends at once."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._asked: set[object] = set()
        self._hello: asyncio.Future[tuple[int, RouterConfig]] = loop.create_future()
        self._router: MemberRouter | None = None
        self._early: list[tuple[Kind, bytes]] = []

    async def serve(self, end: socket) -> None:
        """Serve. Raises TercetError when it can't listen."""
        loop = asyncio.get_running_loop()
        # Ctrl-C goes to the whole family: the main process says what follows.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGTERM, self._ask, signal.SIGTERM)
        pipe = await Pipe.over(end, self._heard, self._stop.set)
        try:
            async with asyncio.timeout(HELLO_S):
                process, config = await self._hello
        except TimeoutError:
            raise UsageError("no main process told what to serve") from None
        setproctitle(f"tercet router {process}")
        set_up_logs(config.log_format)
        router = MemberRouter(config, process)
        router.pipe = pipe
        self._router = router
        for kind, body in self._early:
            router.heard(kind, body)
        try:
            await router.start()
            collect_less()
            pipe.send(Kind.READY)
            await self._stop.wait()
        finally:
            await close(router, config.shutdown_grace_s, self._hurry)
            await pipe.finish(1.0)

    def _ask(self, how: object) -> None:
        """Stop; at once when asked twice in the same way. A signal to the whole group comes here, and to the main
        process, whose order follows: both together are one request."""
        (self._hurry if how in self._asked else self._stop).set()
        self._asked.add(how)

    def _heard(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.STOP:
            self._ask(kind)
        elif kind is Kind.HELLO:
            process, data = decode(body)
            try:
                self._hello.set_result((process, RouterConfig.from_data(data)))
            except TercetError as error:
                self._hello.set_exception(error)
        elif self._router is None:
            self._early.append((kind, body))
        else:
            self._router.heard(kind, body)


async def _serve(fd: int) -> None:
    await Child().serve(socket(fileno=fd))


def main(argv: list[str]) -> int:
    """Run; return the exit code."""
    try:
        uvloop.run(_serve(int(argv[1])))
    except TercetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
