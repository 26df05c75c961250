"""One request for generation on its way through the router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from time import perf_counter_ns

from tercet.core.errors import RequestError
from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.false_start import FalseStart, false_start, is_clients
from tercet.dialects.protocol import Answer, Exchange, Failure, Leg, Legs, PicturesNeeded, Reply, Step
from tercet.dialects.refusal import without_pictures
from tercet.dialects.request import ClientRequest
from tercet.dialects.usage import StreamedUsage, failed
from tercet.http.client import ClientError, Relayed, Response
from tercet.http.relay import Rewriter
from tercet.http.server import Responder
from tercet.router.account import Account, word
from tercet.router.answer_headers import generated
from tercet.router.observation import Observation
from tercet.router.parts import Parts
from tercet.router.pictures import add_cache, cache_header
from tercet.router.sender import ended, failure
from tercet.router.span import FIRST_TOKEN, STREAM
from tercet.router.timeline import TimelineWriter
from tercet.routing.encoding import place_again
from tercet.routing.events import Finished, PrefixLost, Routed
from tercet.routing.facts import RequestFacts
from tercet.routing.modes import route
from tercet.routing.refusal import Refusal

TAIL_BYTES = 4096
"""Enough of a stream's end, for each choice, to hold its usage and its last finish reason."""
MOST_TAILS = 16
"""How many choices may come is the client's to say."""

LOST_ANSWER = frozenset({"closed", "idle_timeout", "protocol", "too_large"})
"""When P may hold blocks that nobody was told of."""

CACHE_HEADER = "x-tercet-cache"

Suspect = Callable[[str], None]


class Call:
    """Takes routes until one answers, or the next attempt would be one too many.

    `suspect` is told the URL of a worker that failed. Cancelling `run` (the client left) cancels every leg and has
    the blocks released that P holds. `broken` is true when a stream failed after its first byte; `tokens` counts
    those of prompt and answer, once it is whole.
    """

    _observation: Observation
    """Of the route taken last."""
    _visited: Collection[str]
    """The URLs of its workers that still have to do with it."""

    def __init__(
        self,
        parts: Parts,
        request: ClientRequest,
        facts: RequestFacts,
        responder: Responder,
        headers: list[tuple[str, str]],
        account: Account,
        suspect: Suspect,
    ) -> None:
        self._parts, self._request, self._facts = parts, request, facts
        self._responder, self._headers = responder, headers
        self._account, self._timing = account, account.timing
        self._suspect = suspect
        self._mode = account.mode = parts.fleet.mode  # a change of mode is for later requests
        self._place: str | None = None
        self._cache: dict[str, int] = {}
        self.broken = False
        self.tokens = 0

    async def run(self) -> None:
        """Answer the request. Raises RequestError while nothing has been sent."""
        parts, failures, lacked = self._parts, 0, 0
        avoid: set[str] = set()
        found = self._route(avoid)
        while isinstance(found, Route):
            outcome = await self._attempt(found)
            if outcome is None:
                return
            self._timing.clear()
            self._cache.clear()
            if isinstance(outcome, PicturesNeeded):
                lacked += 1
                if lacked > 2:  # while the first were encoded others may have gone; then all were
                    raise without_pictures(outcome)
                found = self._with_more(found, outcome, avoid, everything=lacked > 1)
                continue
            failures += 1
            self._observation.failed(parts, outcome)
            avoid.add(outcome.rank.address)
            if not outcome.retry or self._responder.started or failures > parts.live.max_retries:
                raise outcome.error
            await asyncio.sleep(parts.pauses.after(failures))
            found = self._route(avoid)
            if isinstance(found, Refusal):
                raise outcome.error
            self._account.retries += 1
            parts.metrics.retries.add(word(outcome.error.code or "error"))
            if outcome.rank.letter == "E":
                parts.metrics.encode_retries.add(word(outcome.error.code or "error"))
        raise RequestError(found.status, found.reason, code=found.code, param="model" if found.status == 404 else None)

    def _route(self, avoid: set[str]) -> Route | Refusal:
        return route(self._mode, self._facts, self._parts.fleet, self._parts.policy, avoid)

    def _with_more(self, way: Route, needed: PicturesNeeded, avoid: set[str], *, everything: bool) -> Route | Refusal:
        """Return how to ask again a rank that lacks pictures: the same way with those encoded, or `everything`, or as
        if it held nothing where nobody but a prefilling rank encodes."""
        parts = self._parts
        parts.metrics.images_needed.add(self._mode)
        if way.mode.encodes_apart:
            wanted = range(len(self._facts.pictures)) if everything else needed.pictures
            return place_again(way, wanted, self._facts, parts.fleet, parts.policy, avoid)
        parts.fleet.apply(PrefixLost(self._facts, needed.rank.address))
        return self._route(avoid)

    async def _attempt(self, found: Route) -> Failure | PicturesNeeded | None:
        """Take one route; None when it answered."""
        parts, request = self._parts, self._request
        fleet, visits, prefill, decode = parts.fleet, parts.visits, found.prefill, found.decode
        name, path = str(next(parts.names)), str(found)
        self._accepted = self._took = False
        self._headers[1:] = [("X-Tercet-Route", path)]
        exchange = parts.dialect.begin(request, found)
        fleet.apply(Routed(name, found, self._facts))
        kind = "split" if prefill is not None else "fallback" if found.fallback else "direct"
        parts.metrics.routed(self._mode, path, kind)
        if self._facts.pictures:
            self._placed(found)
        self._observation = Observation(name, found, self._facts, request.choices, exchange)
        self._account.taken(self._observation)
        self._visited = (decode.url,)
        if prefill is not None and prefill.url != decode.url:
            self._visited = (prefill.url, decode.url)
        if found.encode:
            self._visited = {*self._visited, *(share.rank.url for share in found.encode)}
        for url in self._visited:
            visits[url] += 1
        try:
            if prefill is not None:
                await self._find_place(decode)
            step: Step | None = exchange.start()
            while isinstance(step, Legs):
                legs = step.legs
                step = await (self._one(exchange, legs[0]) if len(legs) == 1 else self._together(exchange, legs))
            if isinstance(step, Reply):
                await self._reply(step)
                return None
            if isinstance(step, PicturesNeeded):
                self._observation.lacks(parts, step)
            return step
        finally:
            for url in self._visited:
                visits[url] -= 1
            self._leave_place()
            fleet.apply(Finished(name))
            releases = exchange.on_exit(self._took)
            if releases:
                parts.handoffs.release(releases)

    def _placed(self, found: Route) -> None:
        metrics = self._parts.metrics
        encoded = sum(len(share.pictures) for share in found.encode)
        metrics.placed(self._mode, encoded, len(found.inline), len(found.named))
        self._cache["held"] = len(found.named)
        if found.encode_fallback:
            metrics.encode_fallbacks.add(self._mode)

    async def _find_place(self, decode: Rank) -> None:
        """Wait until D may be owed one handoff more."""
        parts, place = self._parts, decode.address
        if not parts.handoffs.admit(place):
            began_ns = perf_counter_ns()
            await parts.handoffs.enter(place, parts.live.first_byte_timeout_s)
            self._timing.waited(began_ns, perf_counter_ns(), decode.label)
        self._place = place

    def _leave_place(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            self._parts.handoffs.leave(place)

    # --- legs ---

    async def _together(self, exchange: Exchange, legs: tuple[Leg, ...]) -> Step | None:
        """Send legs, all at once; return the step that decides, None when an answer was streamed. The first failure,
        and whatever ends the request, cancels the others."""
        tasks = [asyncio.create_task(self._one(exchange, leg)) for leg in legs]
        try:
            step: Step | None = None
            more: tuple[Leg, ...] = ()
            for done in asyncio.as_completed(tasks):
                step = await done
                if not isinstance(step, Legs):
                    return step
                more += step.legs
            return Legs(more)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _one(self, exchange: Exchange, leg: Leg) -> Step | None:
        step: Step | None
        started = perf_counter_ns()
        try:
            if leg.stage is Stage.DECODE:
                sender = self._parts.sender
                response = await sender.open(leg)
                if leg.streams and response.status == 200:
                    step = await self._relay(leg, response, started)
                else:
                    body = await response.read(max_bytes=sender.max_answer_bytes)
                    step = self._whole(exchange, leg, Answer(response.status, response.headers, body), started)
            else:
                step = await self._ahead(exchange, leg, started)
        except ClientError as error:
            self._suspect(leg.rank.url)
            if leg.stage is Stage.PREFILL and error.reason in LOST_ANSWER:
                self._parts.handoffs.expires("answer_lost")
            step = failure(leg, error)
        except asyncio.CancelledError:
            self._given_up(leg, started)
            raise
        if isinstance(step, Failure):
            self._timing.failed(leg.stage, leg.rank.label, started, perf_counter_ns(), word(step.error.code or "error"))
        # Once D answers it holds all that P had for it: P's failing so late is nothing to the client.
        return Legs(()) if self._accepted and leg.stage is Stage.PREFILL else step

    def _given_up(self, leg: Leg, started: int) -> None:
        if leg.stage is Stage.DECODE and self._responder.started:
            self._account.broke(leg.rank.label, "cancelled")
        else:
            self._timing.failed(leg.stage, leg.rank.label, started, perf_counter_ns(), "cancelled")

    async def _ahead(self, exchange: Exchange, leg: Leg, started: int) -> Step:
        """Send an encode or prefill leg. Its answer names what the worker holds for those that come after, so that the
        client's leaving doesn't cancel it."""
        begun: list[Response] = []
        parts = self._parts
        task = asyncio.get_running_loop().create_task(parts.sender.whole(leg, begun.append))
        try:
            await ended(task)
        except asyncio.CancelledError:
            parts.handoffs.abandon(exchange, leg, task, begun)
            raise
        answer = task.result()
        now = perf_counter_ns()
        timing, cache = answer.headers.get("server-timing"), answer.headers.get(CACHE_HEADER)
        if leg.method == "GET":
            return exchange.on_answer(leg, answer)  # a question, which costs no prefill
        if leg.stage is Stage.ENCODE:
            self._timing.encode(leg.rank.label, started, now, timing)
        else:
            self._timing.prefill(leg.rank.label, started, now, timing)
        if cache is not None:
            add_cache(self._cache, cache)
        step = exchange.on_answer(leg, answer)
        if answer.status == 200 and not isinstance(step, Failure | PicturesNeeded):
            if leg.stage is Stage.ENCODE:
                self._observation.encoded(parts, leg.rank)
            else:
                self._observation.prefilled(parts, answer)
        return step

    def _whole(self, exchange: Exchange, leg: Leg, answer: Answer, started: int) -> Step:
        """Take D's whole answer."""
        headers, account = answer.headers, self._account
        self._decoded(leg, headers, started, perf_counter_ns(), STREAM)
        step = exchange.on_answer(leg, answer)
        if isinstance(step, Reply) and step.status == 200:
            self._taken(leg, headers)
            account.answered(answer.body)
            self._observation.first_token(self._parts, headers, account.usage)
            self._headers += self._passed_on(headers)
        return step

    def _decoded(self, leg: Leg, headers: Mapping[str, str], started: int, now_ns: int, phase: str) -> None:
        handed_over, said = self._observation.route.prefill is not None, headers.get("server-timing")
        self._timing.decode(leg.rank.label, started, now_ns, said, phase=phase, handed_over=handed_over)

    def _taken(self, leg: Leg, headers: Mapping[str, str]) -> None:
        """D has all that it needs: nothing is held for it elsewhere, the pictures' bytes least of all."""
        self._accepted = True
        # If the blocks did not come, and D computed them, P still holds them.
        self._took = self._observation.route.prefill is None or headers.get("x-tercet-external-tokens") != "0"
        self._leave_place()
        self._request.let_go()
        leg.let_go()
        if self._took:
            self._observation.exchange.on_exit(True)  # a ticket may be long, too
        if self._took and not self._facts.pictures:  # whose embeddings D may have to read once more
            for url in self._visited:
                if url != leg.rank.url:
                    self._parts.visits[url] -= 1  # its part is done: it may leave
            self._visited = (leg.rank.url,)

    async def _relay(self, leg: Leg, response: Response, started: int) -> Step | None:
        """Pass D's stream on as it comes; return what it means if it failed in its first bytes, which nobody has seen.
        Raises ClientError when it failed before them."""
        observation = self._observation

        def on_first(now_ns: int, first: bytes) -> list[tuple[str, str]]:
            if (step := false_start(leg, first)) is not None:
                self._decoded(leg, response.headers, started, now_ns, STREAM)
                raise FalseStart(step)
            self._taken(leg, response.headers)
            self._decoded(leg, response.headers, started, now_ns, FIRST_TOKEN)
            observation.first_token(self._parts, response.headers, None)
            return self._first_byte(now_ns, self._passed_on(response.headers), True)

        rewriter: Rewriter | None = StreamedUsage(leg.usage_details) if leg.usage_details else None
        if self._account.timeline:
            rewriter = TimelineWriter(self._account, leg.rank.label, rewriter)
        try:
            relayed = await response.relay(
                self._responder,
                on_first=on_first,
                tail_bytes=TAIL_BYTES * min(self._request.choices, MOST_TAILS),
                rewriter=rewriter,
            )
        except ClientError as error:
            if not self._responder.started:
                raise
            self._suspect(leg.rank.url)
            broken = failure(leg, error).error
            self._account.broke(leg.rank.label, broken.code or "error")
            self._break_off(broken)
            return None
        except FalseStart as error:
            return error.step
        bad = failed(relayed.tail)
        self._account.streamed(leg.rank.label, relayed, "engine_error" if bad else None)
        if bad:
            self._broke(blame=not is_clients(relayed.tail))
        else:
            self._finished(relayed)
        return None

    def _finished(self, relayed: Relayed | None) -> None:
        prompt, answers = self._observation.finished(self._parts, self._account.usage, relayed)
        self.tokens, self._account.output_tokens = prompt + answers, answers

    def _break_off(self, error: RequestError) -> None:
        """Say in the stream that it broke: nothing of it can be taken back, nor sent again."""
        self._broke()
        if not self._responder.finished:
            self._responder.write(b"\n\ndata: " + json.dumps(error.body()).encode() + b"\n\n")
            self._responder.finish()

    def _broke(self, *, blame: bool = True) -> None:
        self.broken = True
        self._parts.metrics.stream_failures.add(self._mode)
        if blame:
            self._observation.broke(self._parts)

    # --- answers ---

    async def _reply(self, reply: Reply) -> None:
        headers = self._first_byte(perf_counter_ns(), [], reply.status == 200)
        if reply.status == 200:
            if reply.early:
                self._parts.metrics.early_ends.add(self._mode)
                self._account.answered(reply.body)
            else:
                self._finished(None)
        else:
            self._account.error = "worker_refused"
        body = reply.body
        if self._account.timeline and reply.early and self._request.stream:
            writer = TimelineWriter(self._account)
            body = writer.feed(body) + writer.end()
        await self._responder.send(reply.status, body, headers=headers, content_type=reply.content_type)

    def _first_byte(self, now_ns: int, more: list[tuple[str, str]], good: bool) -> list[tuple[str, str]]:
        timing, account = self._timing, self._account
        own_ns = timing.own_ns(now_ns)
        if good:
            worker, seconds = self._observation.route.decode.label, (now_ns - timing.received_ns) / 1e9
            self._parts.metrics.first_byte(self._mode, worker, account.turn, seconds, own_ns / 1e9)
        if self._cache and (cache := cache_header(self._cache)):
            more = [*more, (CACHE_HEADER, cache)]
        return [*self._headers, *more, ("Server-Timing", timing.header(own_ns))]

    def _passed_on(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the worker's headers that the client gets. What they say of their caches is summed up over all
        legs."""
        if CACHE_HEADER in headers:
            add_cache(self._cache, headers[CACHE_HEADER])
        return generated(headers)
