"""The processes of one router: the main one starts the others, starts them anew when they end, and ends them all."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from tercet.core.errors import TercetError, UsageError
from tercet.router.app import no_port, on_signals
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
LOOK_S = 1.0
"""How often is looked whether one is silent."""


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
            try:
                how = f"ended with {await self._run()}"
            except OSError as error:  # too little memory, too many processes or files: that may pass
                how = f"could not be started: {error.strerror or error}"
            if self._stopping.is_set():
                return
            if not self.ready.is_set():
                raise TercetError(f"router process {self._process} never got ready: it {how}")
            log.error("router process %d %s; it is started anew in %.1f s", self._process, how, pause_s)
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
        try:
            child = self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
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
        self._starts += 1
        gone, hangs = asyncio.Event(), True
        try:
            pipe = self._pipe = await Pipe.over(ours, self._heard, gone.set)
            peer = self._peer = Peer(self._process, child.pid, self._starts, pipe)
            pipe.send(Kind.HELLO, encode((self._process, self._config.to_data())))
            self._router.joined(peer)
            if self._stopping.is_set():
                pipe.send(Kind.STOP)
            hangs = await self._watch(gone)
        finally:
            if self._pipe is not None:
                self._pipe.close()
            if self._peer is not None:
                self._router.left(self._peer)
            self._pipe = self._peer = None
            if hangs:
                self.kill()
            status = await self._end_of(child)
        return status

    async def _end_of(self, child: asyncio.subprocess.Process) -> int:
        """Let it end by itself: it lets go of its pipe before it says what was wrong."""
        try:
            async with asyncio.timeout(END_S):
                return await child.wait()
        except TimeoutError:
            log.error("router process %d let go of its pipe, and does not end: it is killed", self._process)
        finally:
            self.kill()
        return await child.wait()

    async def _watch(self, gone: asyncio.Event) -> bool:
        """Return when the process let go of its pipe, or, with true, when it hangs."""
        assert self._peer is not None
        while not gone.is_set():
            looked = monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await gone.wait()
            # Whoever stood still with this process, as when a machine pauses, could not have spoken.
            paused_s = max(0.0, monotonic() - looked - LOOK_S)
            self._peer.heard_at = min(self._peer.heard_at + paused_s, monotonic())
            allowed = SILENT_S if self._peer.ready else READY_S
            if not self._stopping.is_set() and monotonic() - self._peer.heard_at > allowed:
                log.error("router process %d has said nothing for %.0f s: it is killed", self._process, allowed)
                return True
        return False

    def _heard(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.READY:
            self.ready.set()
            if self._peer is not None:
                self._peer.ready = True
        if self._peer is not None:
            self._router.heard(self._peer, kind, body)


def reserve(config: RouterConfig) -> list[socket.socket]:
    """Return sockets that are bound to the port at each of the host's addresses, as servers bind them, and on which
    nobody listens: so the port stays the family's. Raises UsageError when others listen there."""
    places: list[socket.socket] = []
    port = config.port
    try:
        for family, *_, found in socket.getaddrinfo(
            config.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                # With SO_REUSEPORT it would bind beside another family.
                with _bound(family, (found[0], port, *found[2:]), socket.SO_REUSEADDR) as probe:
                    address = probe.getsockname()
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:
                    continue  # servers leave it out, too
                raise
            places.append(_bound(family, address, socket.SO_REUSEADDR, socket.SO_REUSEPORT))
            port = address[1]
        if not places:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    except OSError as error:
        for place in places:
            place.close()
        raise no_port(config, error) from error
    return places


def _bound(family: int, address: tuple[object, ...], *options: int) -> socket.socket:
    place = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            place.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            place.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        place.bind(address)
    except OSError:
        place.close()
        raise
    return place


async def serve_many(config: RouterConfig, on_ready: Callable[[int], None] = lambda port: None) -> int:
    """Run a router of several processes until SIGINT or SIGTERM; a second one ends them at once. `on_ready` is told the
    port. Raises TercetError."""
    if any(port.here for port in config.event_ports().values()):
        raise UsageError("--workers: KV events that workers bring to this machine (events-here) need one process")
    stop, hurry = on_signals()
    places = reserve(config)
    config = replace(config, port=places[0].getsockname()[1])
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
        for place in places:
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
