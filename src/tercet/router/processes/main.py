"""The main process of several: watches the workers, answers the operator, and passes on what each process learns."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tercet.core.errors import RequestError
from tercet.core.faults import whence
from tercet.http.client import Client
from tercet.http.responder import Responder
from tercet.http.server import Request
from tercet.http.wire import Headers
from tercet.router.app import Router
from tercet.router.config import RouterConfig
from tercet.router.processes.breakers import MainBreakers
from tercet.router.processes.fleet import DOUBTS, MainFleet
from tercet.router.processes.pipe import Pipe
from tercet.router.processes.wire import Kind, decode, encode
from tercet.router.record import ToldRecord
from tercet.routing import events as e
from tercet.routing.breaker import Key
from tercet.routing.events import Event, PairHealth, RankHealth

log = logging.getLogger(__name__)

TICK_S = 0.25
SETTLE_S = 1.0
REPORT_S = 1.0
MAX_UNREAD = 64 << 20
"""So many bytes that a process has not read, and it is as good as dead."""
LOOKS = frozenset({"/metrics", "/status", "/requests", "/metrics/clear", "/conversations/clear"})
"""What is asked of all processes before it is answered."""


@dataclass(slots=True)
class Peer:
    """One process that serves requests, as the main process knows it."""

    process: int
    pid: int
    starts: int
    pipe: Pipe
    ready: bool = False
    done: int = 0
    heard_at: float = 0.0
    reported: int = 0
    waiting: int = 0
    visits: Counter[str] = field(default_factory=Counter)
    unaccepted: Counter[str] = field(default_factory=Counter)


class Kept(Responder):
    """An answer that is not written but kept, for another process to send."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.started = False
        self.status = 0
        self.answer: tuple[int, list[tuple[str, str]], str, bytes] | None = None

    async def send(
        self, status: int, body: bytes, *, headers: Headers = (), content_type: str = "application/json"
    ) -> None:
        """Keep the answer."""
        self.started, self.status = True, status
        self.answer = (status, list(headers), content_type, body)


class ToldClient(Client):
    """Cuts connections in every process. `cut` is told the URL."""

    cut: Callable[[str], None] = staticmethod(lambda url: None)

    def disconnect(self, url: str) -> None:
        """Cut every connection to the URL's host and port, whoever made it."""
        super().disconnect(url)
        self.cut(url)


class MainRouter(Router):
    """Listens on no port: `peers` do."""

    def __init__(self, config: RouterConfig) -> None:
        super().__init__(config)
        self.peers: dict[int, Peer] = {}
        self._orders: list[tuple[Any, ...]] = []
        self._number = 0
        self._emptied: dict[str, int] = {}
        self._flushing = False
        self._report_number = 0
        self._heard_more = asyncio.Event()
        self._told_ports: dict[str, int] = dict(self.parts.ports)
        self._told_live = self.parts.live.values()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticks: asyncio.Task[None] | None = None
        self._fleet.tell = self._tell_event
        self._breakers.closed, self._breakers.forgot = self._tell_closed, self._tell_forgot
        assert isinstance(self.parts.client, ToldClient)
        self.parts.client.cut = self._tell_cut
        self._asks_certificate = False  # whoever passes a question on has asked for it

    @property
    def _fleet(self) -> MainFleet:
        assert isinstance(self.parts.fleet, MainFleet)
        return self.parts.fleet

    @property
    def _breakers(self) -> MainBreakers:
        assert isinstance(self.parts.breakers, MainBreakers)
        return self.parts.breakers

    def _make_fleet(self, config: RouterConfig) -> MainFleet:
        return MainFleet(index_chunks=config.index_chunks, max_conversations=config.max_conversations)

    def _make_breakers(self, config: RouterConfig) -> MainBreakers:
        return MainBreakers(config.breaker_failures, config.breaker_pause_s, config.breaker_max_pause_s)

    def _make_client(self, config: RouterConfig) -> Client:
        return ToldClient(connect_timeout_s=config.connect_timeout_s, tls=config.worker_tls())

    def _processes(self) -> list[dict[str, object]]:
        return [
            {
                "process": peer.process,
                "pid": peer.pid,
                "in_flight": self._fleet.parts_of(peer.process)[1],
                "waiting": peer.waiting,
                "starts": peer.starts,
                "ready": peer.ready,
            }
            for peer in sorted(self.peers.values(), key=lambda peer: peer.process)
        ]

    async def start(self) -> None:
        """Watch the workers."""
        self._watch()
        self._ticks = asyncio.get_running_loop().create_task(self._tick())

    async def close(self, grace_s: float) -> None:
        """End what watches, and what is being answered."""
        tasks = {*self._tasks} if self._ticks is None else {*self._tasks, self._ticks}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await super().close(grace_s)

    # --- processes that join and leave ---

    def joined(self, peer: Peer) -> None:
        """Tell a new process all there is to know; from now on it is told the rest."""
        self._flush()
        orders = [("ports", self.parts.ports), ("live", self.parts.live.values()), ("anew", self._fleet.picture())]
        peer.pipe.send(Kind.ORDERS, encode((self._number, orders)))
        for other in self.peers:
            parts, count = self._fleet.parts_of(other)
            peer.pipe.send(Kind.NEWS, encode((other, parts, count, (), b"")))
        peer.heard_at = monotonic()
        self.peers[peer.process] = peer

    def left(self, peer: Peer) -> None:
        """A process is gone: what it had under way is nobody's."""
        if self.peers.get(peer.process) is not peer:
            return
        del self.peers[peer.process]
        self._heard_more.set()
        self._fleet.withdraw(peer.process)
        self.parts.gates.elsewhere -= peer.waiting
        self._add(self.parts.visits, peer.visits, dict.fromkeys(peer.visits, 0))
        self._add(self.parts.handoffs.elsewhere, peer.unaccepted, dict.fromkeys(peer.unaccepted, 0))
        for other in self.peers.values():
            other.pipe.send(Kind.GONE, encode(peer.process))

    def heard(self, peer: Peer, kind: Kind, body: bytes) -> None:
        """Take a frame from a process."""
        peer.heard_at = monotonic()
        self._heard_more.set()
        if kind is Kind.NEWS:
            self._take_news(peer, body)
        elif kind is Kind.DONE:
            peer.done = decode(body)
        elif kind is Kind.REPORT:
            number, counts, records, sizes = decode(body)
            if sizes:
                self._fleet.take_sizes(peer.process, sizes)
            self.parts.metrics.absorb(counts)
            told = [ToldRecord(data["id"], at, {**data, "process": peer.process}) for at, data in records]
            if told:
                self.parts.recent.add_all(told)
            peer.reported = max(peer.reported, number)
        elif kind is Kind.QUESTION:
            task = asyncio.get_running_loop().create_task(self._answer(peer, decode(body)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind is Kind.SUSPECT:
            self.prober.suspect(decode(body))

    def _take_news(self, peer: Peer, body: bytes) -> None:
        if self._orders:
            self._flush()  # all are to hear of workers and of news in the order in which they are taken in here
        parts, count, waiting, more, done, about, told, news = decode(body)
        if any(self._emptied.get(address, 0) > done for address in about):
            news = self._up_to_date(news, done)
        passed = encode((peer.process, parts, count, told, news))
        for other in self.peers.values():
            if other is not peer:
                self._send(other, Kind.NEWS, passed)
        self._fleet.take_parts(peer.process, parts, count)
        self.parts.gates.elsewhere += waiting - peer.waiting
        peer.waiting = waiting
        if more:
            self._add(self.parts.visits, peer.visits, more[0])
            self._add(self.parts.handoffs.elsewhere, peer.unaccepted, more[1])
        for item in told:
            if type(item) in DOUBTS:
                self._fleet.apply(item)
            elif len(item) == 2:  # others are of API keys: for those that let requests in
                failed, key = item
                if self._breakers.told(failed, key, monotonic()):
                    self._doubt(key)

    def _up_to_date(self, news: bytes, done: int) -> bytes:
        """Leave out what a process believed of a cache before it heard, as of orders after `done`, that it was emptied:
        the process itself will forget it."""
        return encode([event for event in decode(news) if self._emptied.get(event.address, 0) <= done])

    @staticmethod
    def _add(sums: Counter[str], known: Counter[str], told: dict[str, int]) -> None:
        for name, number in told.items():
            sums[name] += number - known[name]
            known[name] = number
            for counter in (sums, known):
                if not counter[name]:
                    del counter[name]  # workers come and go

    def _doubt(self, key: Key) -> None:
        event = RankHealth(key, False) if isinstance(key, str) else PairHealth(*key, False)
        self._fleet.apply(event)

    # --- what it tells ---

    def _tell_event(self, event: Event) -> None:
        self._tell("event", event)
        if isinstance(event, e.ConversationsCleared) or (isinstance(event, e.CacheCleared) and event.address is None):
            emptied: Iterable[str] = self._fleet.ranks
        elif isinstance(event, e.CacheCleared | e.RankRestarted):
            emptied = (str(event.address),)
        elif isinstance(event, e.WorkerAdded):
            emptied = [address for address, rank in self._fleet.ranks.items() if rank.url == event.url]
        else:
            return
        for address in self._emptied.keys() - self._fleet.ranks.keys():
            del self._emptied[address]
        # The number of the orders that are to tell it.
        self._emptied.update(dict.fromkeys(emptied, self._number + 1))

    def _tell_closed(self, key: Key) -> None:
        self._tell("close", key)

    def _tell_forgot(self, address: str) -> None:
        self._tell("forget", address)

    def _tell_cut(self, url: str) -> None:
        self._tell("disconnect", url)

    def _tell(self, name: str, value: object) -> None:
        self._orders.append((name, value))
        if not self._flushing and self.peers:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send every process what it was not told yet."""
        self._flushing = False
        live = self.parts.live.values()
        if live != self._told_live:
            self._told_live = live
            self._orders.insert(0, ("live", live))
        if self.parts.ports != self._told_ports:
            self._told_ports = dict(self.parts.ports)
            self._orders.insert(0, ("ports", self._told_ports))
        if not self._orders:
            return
        orders, self._orders = self._orders, []
        self._number += 1
        body = encode((self._number, orders))
        for peer in list(self.peers.values()):
            self._send(peer, Kind.ORDERS, body)

    def _send(self, peer: Peer, kind: Kind, body: bytes) -> None:
        if peer.pipe.waiting_bytes > MAX_UNREAD:
            log.error("router process %d takes in nothing: it is started anew", peer.process)
            peer.pipe.close()  # its owner sees to the rest
        else:
            peer.pipe.send(kind, body)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._flush()
            except Exception as error:  # noqa: BLE001 - the boundary: later orders are to be told all the same
                log.error("orders to the router's processes failed: %s", whence(error))

    async def _settle(self) -> None:
        self._flush()
        number = self._number
        await self._until(lambda peer: peer.done >= number, SETTLE_S)

    async def _look(self) -> None:
        """Return when every process has told what it counted, or is silent."""
        self._report_number += 1
        number = self._report_number
        for peer in self.peers.values():
            self._send(peer, Kind.ASK, encode(number))
        await self._until(lambda peer: peer.reported >= number, REPORT_S)

    async def _until(self, true_of: Callable[[Peer], bool], timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not all(map(true_of, self.peers.values())):
                    self._heard_more.clear()
                    await self._heard_more.wait()

    # --- what it answers ---

    async def _answer(self, peer: Peer, question: tuple[Any, ...]) -> None:
        """Answer what a client asked one of the processes; what it changed is known to all by then."""
        number, *told = question
        request, kept = Request(*told), Kept()
        try:
            if request.path in LOOKS:
                await self._look()
            await self.handle(request, kept)
            if request.method not in ("GET", "HEAD"):
                await self._settle()
        except Exception as error:  # noqa: BLE001 - the boundary: one question's fault must not end the router
            log.error("%s %.100r failed: %s", request.method, request.path, whence(error))
        if kept.answer is None:
            body = RequestError(500, "internal error", code="internal_error").body()
            await kept.send(500, json.dumps(body).encode())
        assert kept.answer is not None
        peer.pipe.send(Kind.ANSWER, encode((number, *kept.answer)))
