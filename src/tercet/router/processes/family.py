"""The processes of one router: the main one starts the others, starts them anew when they end, and ends them all."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from tercet.core.errors import TercetError, UsageError
from tercet.router.app import no_port
from tercet.router.config import RouterConfig
from tercet.router.processes.main import MainRouter, Peer
from tercet.router.processes.pipe import Pipe
from tercet.router.processes.wire import Kind, encode

log = logging.getLogger(__name__)

READY_S = 60.0
SILENT_S = 10.0
"""A process reports every second: one that says nothing for so long hangs, or was stopped, and is killed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
"""Before a process is started anew: doubles while they die within STEADY_S."""
STEADY_S = 30.0
END_S = 3.0
"""What a process may take to end beyond the time its requests have."""


class Member:
    """One place in the family, and who fills it now."""

    def __init__(self, router: MainRouter, config: RouterConfig, process: int) -> None:
        self._router, self._process = router, process
        self._config = replace(
            config,
            # Drawn at random means drawn differently by each.
            seed=config.seed + process,
            max_unaccepted_handoffs=-(-config.max_unaccepted_handoffs // config.processes),
        )
        self._starts = 0
        self._child: asyncio.subprocess.Process | None = None
        self._pipe: Pipe | None = None
        self._peer: Peer | None = None
        self._stopping = asyncio.Event()
        self.ready = asyncio.Event()

    async def keep(self) -> None:
        """Start it, and start it anew whenever it ends, until `stop`. Raises TercetError when it never got ready."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = monotonic()
            status = await self._run()
            if self._stopping.is_set():
                return
            if not self.ready.is_set():
                raise TercetError(f"router process {self._process} ended with {status} before it was ready")
            log.error("router process %d ended with %d: it is started anew in %.1f s", self._process, status, pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = FIRST_PAUSE_S if monotonic() - began > STEADY_S else min(2 * pause_s, LONGEST_PAUSE_S)

    def stop(self) -> None:
        """Have it end what it has under way, and not come back; told again, end at once."""
        self._stopping.set()
        if self._pipe is not None:
            self._pipe.send(Kind.STOP)

    def kill(self) -> None:
        """End it."""
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.kill()

    async def _run(self) -> int:
        ours, theirs = socket.socketpair()
        self._starts += 1
        try:
            child = self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tercet.router.processes.child",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        gone = asyncio.Event()
        try:
            pipe = self._pipe = await Pipe.over(ours, self._heard, gone.set)
            peer = self._peer = Peer(self._process, child.pid, self._starts, pipe)
            pipe.send(Kind.HELLO, encode((self._process, self._config.to_data())))
            self._router.joined(peer)
            if self._stopping.is_set():
                pipe.send(Kind.STOP)
            await self._watch(gone)
        finally:
            if self._pipe is not None:
                self._pipe.close()
            if self._peer is not None:
                self._router.left(self._peer)
            self._pipe = self._peer = None
            self.kill()
            status = await child.wait()
        return status

    async def _watch(self, gone: asyncio.Event) -> None:
        """Return when the process is gone, or as good as that."""
        assert self._peer is not None
        while not gone.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await gone.wait()
            allowed = SILENT_S if self._peer.ready else READY_S
            if not self._stopping.is_set() and monotonic() - self._peer.heard_at > allowed:
                log.error("router process %d has said nothing for %.0f s: it is killed", self._process, allowed)
                return

    def _heard(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.READY:
            self.ready.set()
            if self._peer is not None:
                self._peer.ready = True
        if self._peer is not None:
            self._router.heard(self._peer, kind, body)


def reserve(config: RouterConfig) -> socket.socket:
    """Return a socket that is bound to the port, and on which nobody listens: so the port stays the family's. Raises
    UsageError when others listen there."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)  # with SO_REUSEPORT it would bind beside another family
            address = probe.getsockname()
        place = socket.socket(family, kind, number)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(address)
    except OSError as error:
        raise no_port(config, error) from error
    return place


async def serve_many(config: RouterConfig, on_ready: Callable[[int], None] = lambda port: None) -> int:
    """Run a router of several processes until SIGINT or SIGTERM; a second one ends them at once. `on_ready` is told the
    port. Raises TercetError."""
    if any(port.here for port in config.event_ports().values()):
        raise UsageError("--workers: KV events that workers bring to this machine (events-here) need one process")
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    place = reserve(config)
    config = replace(config, port=place.getsockname()[1])
    router = MainRouter(replace(config, log_requests=False))
    members = [Member(router, config, process) for process in range(config.processes)]
    keepers: list[asyncio.Task[None]] = []
    try:
        await router.start()
        keepers = [asyncio.create_task(member.keep()) for member in members]
        stopped = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(_all_ready(members))
        waiting: set[asyncio.Task[None] | asyncio.Task[bool]] = {stopped, ready, *keepers}
        while not stop.is_set():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done & set(keepers):
                task.result()
            if ready in done:
                place_text = f"{config.scheme}://{config.host}:{config.port}"
                log.info("router listens on %s, mode %s, %d processes", place_text, config.start_mode, len(members))
                on_ready(config.port)
        log.info("stopping")
    finally:
        await _end(members, keepers, hurry, config.shutdown_grace_s)
        await router.close(0.0)
        place.close()
    return 0


async def _all_ready(members: list[Member]) -> None:
    for member in members:
        await member.ready.wait()


async def _end(members: list[Member], keepers: list[asyncio.Task[None]], hurry: asyncio.Event, grace_s: float) -> None:
    """Have every process end in good order, and kill those that don't."""
    for member in members:
        member.stop()
    if not keepers:
        return
    ended = asyncio.ensure_future(asyncio.wait(keepers))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait({ended, hurried}, timeout=grace_s + END_S, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not ended.done():
        for member in members:
            member.stop()
        await asyncio.wait({ended}, timeout=END_S)
    for member in members:
        member.kill()
    await ended
