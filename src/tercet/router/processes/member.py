"""A router process that serves requests: the main process tells it of workers, the others of what they learnt."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any

from tercet.core.api_keys import ApiKey
from tercet.core.errors import RequestError
from tercet.core.faults import whence
from tercet.http.server import Request, Responder
from tercet.router.app import Router
from tercet.router.config import RouterConfig
from tercet.router.dashboard.pages import HOME
from tercet.router.processes.breakers import MemberBreakers
from tercet.router.processes.fleet import DOUBTS, OF_A_RANK, MemberFleet
from tercet.router.processes.pipe import Pipe
from tercet.router.processes.wire import Kind, decode, encode
from tercet.router.quota import Quota
from tercet.router.record import KEPT
from tercet.routing.breaker import Key
from tercet.routing.events import Event

log = logging.getLogger(__name__)

FLUSH_S = 0.005
"""What others want to know waits so long for more of it."""
REPORT_S = 1.0
MAX_UNREAD = 8 << 20
"""So many bytes that the main process has not read, and it is told and asked nothing until it reads again."""
MAX_TOLD = 4096
"""So many failures and doubts are kept for it meanwhile."""
SPENT = "spent"
"""Begins what is told of an API key's use."""
QUESTION_S = 90.0
"""Longer than the slowest answer: that to a reset of all caches."""
OWN = frozenset({"/health", "/openapi.json", HOME})
WITH_BODY = frozenset({"/workers"})
"""Where the main process reads what a client sent; elsewhere it does not get it."""
MAX_QUESTION = 1 << 20


class MemberRouter(Router):
    """One of several. Watches no worker; `pipe` is set before it starts, and takes what `heard` is to be told of."""

    pipe: Pipe

    def __init__(self, config: RouterConfig, process: int) -> None:
        super().__init__(config)
        self._process = process
        self._news: list[Event] = []
        self._told: list[object] = []
        self._spent: dict[str, tuple[str, str, int, int, int]] = {}  # what of each key's use is not told yet
        self._flushing = self._hurrying = False
        self._visits: Counter[str] = Counter()
        self._unaccepted: dict[str, int] = {}
        self._told_waiting = self._told_count = 0
        self._last_record = 0
        self._questions: dict[int, asyncio.Future[tuple[Any, ...]]] = {}
        self._asked = 0
        self._done = 0
        self._reports: asyncio.Task[None] | None = None
        self._dropped = False
        self.suspect = self._suspect
        fleet, breakers = self._fleet, self._breakers
        fleet.tell, fleet.changed = self._tell, self._stir
        breakers.tell = self._tell_failure
        self.parts.door.quotas.tell = self._tell_spent

    @property
    def _fleet(self) -> MemberFleet:
        assert isinstance(self.parts.fleet, MemberFleet)
        return self.parts.fleet

    @property
    def _breakers(self) -> MemberBreakers:
        assert isinstance(self.parts.breakers, MemberBreakers)
        return self.parts.breakers

    def _make_fleet(self, config: RouterConfig) -> MemberFleet:
        return MemberFleet(index_chunks=config.index_chunks, max_conversations=config.max_conversations)

    def _make_breakers(self, config: RouterConfig) -> MemberBreakers:
        return MemberBreakers(config.breaker_failures, config.breaker_pause_s, config.breaker_max_pause_s)

    def _watch(self) -> None:
        self._reports = asyncio.get_running_loop().create_task(self._report_always())

    async def close(self, grace_s: float) -> None:
        """End, as any router does, and tell what was counted last."""
        await super().close(grace_s)
        if self._reports is not None:
            self._reports.cancel()
            await asyncio.wait({self._reports})
        self._flush()
        self._report(0, with_records=False)

    # --- what it hears ---

    def heard(self, kind: Kind, body: bytes) -> None:
        """Take a frame from the main process."""
        if kind is Kind.NEWS:
            process, parts, count, told, news = decode(body)
            self._fleet.take_parts(process, parts, count)
            self._take_told(process, told)
            if news:
                for event in decode(news):
                    self._fleet.take(event)
        elif kind is Kind.ORDERS:
            number, orders = decode(body)
            self._flush()  # what was routed and learnt before these orders is to be known when they are done
            for name, *values in orders:
                _ORDERS[name](self, *values)
            self._done = number
            self.pipe.send(Kind.DONE, encode(number))
        elif kind is Kind.ANSWER:
            number, *answer = decode(body)
            waiting = self._questions.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(tuple(answer))
        elif kind is Kind.GONE:
            process = decode(body)
            self._fleet.withdraw(process)
            self.parts.door.quotas.withdraw(process)
        elif kind is Kind.ASK:
            self._flush()
            self._report(decode(body), with_records=True)

    def _take_told(self, process: int, told: tuple[Any, ...]) -> None:
        for item in told:
            if not isinstance(item, tuple):
                continue  # a doubt: the main process says what follows
            if item[0] == SPENT:
                _, digest, requests, tokens, in_flight = item
                self.parts.door.spent(digest, process, requests, tokens, in_flight)
            else:
                failed, key = item
                self._breakers.told(failed, key, monotonic())

    def _begin_anew(self, told: tuple[Event, ...]) -> None:
        self._fleet.begin_anew(told)

    def _take_event(self, event: Event) -> None:
        self._fleet.take(event)

    def _set_ports(self, ports: dict[str, int]) -> None:
        self.parts.ports.clear()
        self.parts.ports.update(ports)

    def _set_live(self, values: dict[str, Any]) -> None:
        parts = self.parts
        if parts.live.become(replace(parts.config, **values)):
            parts.follow_live()

    def _disconnect(self, url: str) -> None:
        self.parts.client.disconnect(url)

    def _close_breaker(self, key: Key) -> None:
        self._breakers.close(key)

    def _forget_breakers(self, address: str) -> None:
        self._breakers.forget(address)

    # --- what it tells ---

    def _tell(self, event: Event) -> None:
        (self._told if type(event) in DOUBTS else self._news).append(event)
        self._stir()

    def _tell_failure(self, failed: bool, key: Key) -> None:
        self._told.append((failed, key))
        self._hurry()

    def _tell_spent(self, quota: Quota, requests: int, tokens: int) -> None:
        digest = quota.key.digest
        _, _, before, used, _ = self._spent.get(digest, (SPENT, digest, 0, 0, 0))
        self._spent[digest] = (SPENT, digest, before + requests, used + tokens, quota.in_flight)
        self._hurry()

    def _hurry(self) -> None:
        if not self._hurrying:
            self._hurrying = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _stir(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush_late)

    def _flush_late(self) -> None:
        self._flushing = False
        self._flush()

    @property
    def _unheard(self) -> bool:
        """True while the main process does not read what it was sent: more would fill the memory."""
        return self.pipe.waiting_bytes > MAX_UNREAD

    def _flush(self) -> None:
        self._hurrying = False
        if self._unheard:
            if not self._dropped:
                log.warning("the main process does not listen: what is learnt now is not told")
            self._dropped = True
            self._news.clear()
            del self._told[:-MAX_TOLD]
            return
        self._dropped = False
        news, self._news = self._news, []
        told, self._told, self._spent = [*self._told, *self._spent.values()], [], {}
        parts, count, waiting = self._fleet.parts_changed(), self._fleet.own_count, self.parts.gates.waiting
        more = self._changes_for_main()
        if not (news or told or parts or more or (count, waiting) != (self._told_count, self._told_waiting)):
            return
        self._told_count, self._told_waiting = count, waiting
        try:
            learnt = encode(news) if news else b""
        except (ValueError, OverflowError, TypeError) as error:
            log.warning("what was learnt of a request can't be told to other processes: %s", type(error).__name__)
            learnt = b""
        about = {event.address for event in news if isinstance(event, OF_A_RANK)}
        self.pipe.send(Kind.NEWS, encode((parts, count, waiting, more, self._done, list(about), told, learnt)))

    def _changes_for_main(self) -> tuple[dict[str, int], dict[str, int]] | tuple[()]:
        """Return requests by worker, and unaccepted handoffs by rank, that are not as they were told last."""
        visits, handoffs = self.parts.visits, self.parts.handoffs
        going = {url: visits[url] for url in {*visits, *self._visits} if visits[url] != self._visits[url]}
        before = self._unaccepted
        now = {address: n for address in {*self._fleet.ranks, *before} if (n := handoffs.unaccepted(address))}
        unaccepted = {a: now.get(a, 0) for a in {*now, *before} if now.get(a, 0) != before.get(a, 0)}
        self._unaccepted = now
        for url, number in going.items():
            self._visits[url] = number
        # Where nothing is left nothing is kept: workers come and go.
        for counter in (visits, self._visits):
            for url in [url for url, number in counter.items() if not number]:
                del counter[url]
        return (going, unaccepted) if going or unaccepted else ()

    async def _report_always(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            try:
                self._flush()
                self._report(0, with_records=False)
            except Exception as error:  # noqa: BLE001 - the boundary: who reports no more is taken for dead
                log.error("a report to the main process failed: %s", whence(error))

    def _report(self, number: int, *, with_records: bool) -> None:
        """Tell what was counted since the last report; `with_records` the requests that ended since they were last
        told. Nothing while the main process does not read: later all of it."""
        if self._unheard:
            return
        records = []
        if with_records:
            for record in self.parts.recent.latest(KEPT):
                if record.ended_ns <= self._last_record:
                    break
                records.append((record.ended_ns, record.to_json()))
            if records:
                self._last_record = records[0][0]
        sizes = self._fleet.sizes() if with_records else ()
        self.pipe.send(Kind.REPORT, encode((number, self.parts.metrics.moved(), records, sizes)))

    def _suspect(self, url: str) -> None:
        if not self._unheard:
            self.pipe.send(Kind.SUSPECT, encode(url))

    # --- what the main process answers ---

    async def _dispatch(
        self, request: Request, responder: Responder, headers: list[tuple[str, str]], key: ApiKey | None
    ) -> None:
        path, methods = request.path, self._methods(request.path)
        method = "GET" if request.method == "HEAD" else request.method
        if methods is None or method not in methods or path in OWN or path.startswith(HOME + "/"):
            await super()._dispatch(request, responder, headers, key)  # which refuses what it has no method for
        else:
            await self._ask(request, responder, headers[0][1])

    async def _ask(self, request: Request, responder: Responder, request_id: str) -> None:
        """Have the main process answer. Raises RequestError 413, and 503 when it does not."""
        body = request.body if request.path in WITH_BODY else b""
        if len(body) > MAX_QUESTION:
            raise RequestError(413, f"the body is larger than {MAX_QUESTION} bytes", code="request_too_large")
        if self._unheard:
            raise _silent()
        self._asked += 1
        number = self._asked
        waiting = self._questions[number] = asyncio.get_running_loop().create_future()
        headers = {**request.headers, "x-request-id": request_id}  # which is in this process's log
        told = (request.method, request.target, request.path, request.query, headers, body)
        self.pipe.send(Kind.QUESTION, encode((number, *told, request.client, request.received_ns)))
        try:
            async with asyncio.timeout(QUESTION_S):
                status, answered, content_type, answer = await waiting
        except TimeoutError:
            raise _silent() from None
        finally:
            self._questions.pop(number, None)
        await responder.send(status, answer, headers=answered, content_type=content_type)


def _silent() -> RequestError:
    return RequestError(503, "the router's main process does not answer", code="main_process_silent")


_ORDERS: dict[str, Callable[..., None]] = {
    "anew": MemberRouter._begin_anew,
    "event": MemberRouter._take_event,
    "ports": MemberRouter._set_ports,
    "live": MemberRouter._set_live,
    "disconnect": MemberRouter._disconnect,
    "close": MemberRouter._close_breaker,
    "forget": MemberRouter._forget_breakers,
}
