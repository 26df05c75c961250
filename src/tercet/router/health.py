"""Health: who is alive, who is ready, who can hand on to whom. An inference proves it, nothing less."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Coroutine
from functools import partial
from time import monotonic
from typing import Any

from tercet.core.build import misfit
from tercet.core.errors import RequestError
from tercet.core.fast_json import loads_answer
from tercet.core.route import Rank, Route
from tercet.core.stage import Mode, Stage, role_letter
from tercet.dialects.protocol import EngineState, Exchange, Failure, Leg, Legs, Reply, Step
from tercet.dialects.request import COMPLETIONS_PATH, ClientRequest, dump
from tercet.http.client import ClientError
from tercet.router.parts import Parts
from tercet.router.probe_picture import probe_picture
from tercet.router.sender import TOO_MANY
from tercet.routing.breaker import Key
from tercet.routing.events import CacheSized, ModelsListed, PairHealth, RankHealth, RankRestarted, WorkerAdded
from tercet.routing.policy import unequal_ranks

log = logging.getLogger(__name__)

PROBES_AT_ONCE = 4
"""Across pairs of one decode rank: others' are proven meanwhile, however long this one's take."""
PAIR_RETRY_S = 1.0
NOT_TAKEN_IN = "what it says of itself can't be taken in"
PROBE_WORDS = "a b c d e f g h i j k l"
"""With the random digits before it more than a block of 16 tokens, yet short for a model of few positions that counts
bytes."""


class Prober:
    """One watch per worker, and one over the pairs. `cards` holds the model objects that each worker lists."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._proofs: dict[Key, asyncio.Task[None]] = {}
        self._doubts: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Event()
        self._limits: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(PROBES_AT_ONCE))
        self._engines: dict[str, str] = {}
        self._states: dict[str, EngineState] = {}
        self._said: dict[str, str] = {}
        self.cards: dict[str, list[dict[str, Any]]] = {}

    def start(self) -> None:
        """Begin watching every worker of the fleet."""
        for url in self._parts.fleet.workers:
            self.watch(url)
        self._run(self._watch_pairs())

    def watch(self, url: str) -> None:
        """Begin watching a worker of the fleet."""
        self._doubts[url] = asyncio.Event()
        self._watches[url] = self._run(self._watch(url))

    def unwatch(self, url: str) -> None:
        """Stop watching a worker: it leaves. Nothing is remembered of it."""
        self._watches.pop(url).cancel()
        for known in (self._doubts, self._said, self.cards):
            known.pop(url, None)
        for rank in self._ranks(url):
            self._engines.pop(rank.address, None)
            self._states.pop(rank.address, None)
            self._limits.pop(rank.address, None)
            self._end_proofs(rank.address)

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)

    def suspect(self, url: str) -> None:
        """A request through this worker failed: look now, not at the next interval."""
        if url in self._doubts:
            self._doubts[url].set()

    def problem(self, what: str) -> str | None:
        """Return why this worker (its URL) or pair (`P0>D0`) is not ready, for people; None when it is, or nothing is
        known yet."""
        return self._said.get(what)

    def pairs(self) -> list[tuple[Rank, Rank]]:
        """Return the P and D ranks that are to hand on to each other."""
        matches = self._parts.policy.matches
        return [(p, d) for p in self._all("P") for d in self._all("D") if matches(p, d)]

    def unmatched(self) -> str | None:
        """Return why some ranks have nobody to hand on to, or None."""
        ends = [[w.ranks for w in self._parts.fleet.workers.values() if role_letter(w.stages) == x] for x in "PD"]
        return unequal_ranks(self._parts.policy.rank_match, *ends)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical("a health check ended by a fault of its own", exc_info=task.exception())

    # --- workers ---

    async def _watch(self, url: str) -> None:
        config, unanswered, dead = self._parts.config, 0, True
        while True:
            doubt = self._doubts[url]
            doubt.clear()
            try:
                status, body = await self._get(url, self._parts.dialect.ready_path, config.health_timeout_s)
            except ClientError as error:
                unanswered += error.reason != TOO_MANY  # our own bound says nothing of the worker
                # A refused connection needs no second opinion: nobody listens there.
                if error.reason == "connect" or unanswered >= config.health_failures:
                    self._down(url, str(error), dead)
                    dead = True
            else:
                unanswered = 0
                try:
                    self._take(url, status, self._parts.dialect.engines(body), returned=dead and url in self._said)
                    dead = False
                except Exception as error:
                    if self._said.get(url) != NOT_TAKEN_IN:
                        log.critical("worker %s: %s", url, NOT_TAKEN_IN, exc_info=error)
                    self._down(url, NOT_TAKEN_IN, dead)
                    dead = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(config.health_interval_s):
                    await doubt.wait()

    def _down(self, url: str, why: str, dead: bool) -> None:
        self._said[url] = why
        for rank in self._ranks(url):
            self._set_ready(rank, False)
        if not dead:
            log.warning("worker %s is down: %s", url, why)
            # Whoever still waits for it would wait for its deadline.
            self._parts.client.disconnect(url)

    def _count_ranks(self, url: str, engines: tuple[EngineState, ...]) -> None:
        fleet = self._parts.fleet
        worker = fleet.workers[url]
        if len(engines) > 1 and len(engines) != worker.ranks and not self._fixed(url):
            log.info("worker %s has %d ranks", url, len(engines))
            fleet.apply(WorkerAdded(url, worker.stages, len(engines)))

    def _fixed(self, url: str) -> bool:
        return url in self._parts.pinned or self._parts.config.fixed_ranks(url)

    def _take(self, url: str, status: int, engines: tuple[EngineState, ...], *, returned: bool) -> None:
        self._count_ranks(url, engines)
        self._look(url, status, engines, returned=returned)
        self._begin_proofs(url, status, engines)

    def _look(self, url: str, status: int, engines: tuple[EngineState, ...], *, returned: bool) -> None:
        """Take in what the worker says of itself: restarted engines, engines that are not ready."""
        states = {state.rank: state for state in engines}
        for rank in self._ranks(url):
            state = states.get(rank.rank or 0)
            if state is None:
                restarted, ready = returned, status == 200
            else:
                known = self._engines.get(rank.address)
                restarted = state.engine_id is not None and known is not None and known != state.engine_id
                ready = state.ready and state.engine_id is not None
                self._states[rank.address] = state
                if state.engine_id is not None and (restarted or known is None):
                    self._engines[rank.address] = state.engine_id
                    if state.kv_tokens is not None or state.embedding_tokens is not None:
                        self._parts.fleet.apply(CacheSized(rank.address, state.kv_tokens, state.embedding_tokens))
            if restarted:
                log.warning(
                    "%s (%s) was restarted: its cache and conversations are forgotten", rank.label, rank.address
                )
                self._end_proofs(rank.address)
                self._parts.breakers.forget(rank.address)
                self._parts.fleet.apply(RankRestarted(rank.address))
            if not ready:
                self._said[url] = f"{self._parts.dialect.ready_path} answered {status}"
                self._set_ready(rank, False)

    def _begin_proofs(self, url: str, status: int, engines: tuple[EngineState, ...]) -> None:
        """Send an inference through every rank that says it is ready and has not shown it yet."""
        fleet = self._parts.fleet
        states = {state.rank: state for state in engines}
        for rank in self._ranks(url):
            if (
                rank.address not in self._proofs
                and not fleet.ready(rank.address)
                and self._parts.breakers.may_probe(rank.address, monotonic())
                and (states[rank.rank or 0].ready if (rank.rank or 0) in states else status == 200)
            ):
                self._begin_proof(rank.address, self._prove(rank))

    def _begin_proof(self, key: Key, work: Coroutine[Any, Any, None]) -> None:
        """Prove a rank or a pair, beside all else: an inference that hangs holds nobody up but itself."""
        proof = self._proofs[key] = self._run(work)
        proof.add_done_callback(partial(self._proof_ended, key))

    def _end_proofs(self, address: str) -> None:
        """Give up what was to prove an engine that is no more."""
        for key in [key for key in self._proofs if key == address or (isinstance(key, tuple) and address in key)]:
            self._proofs.pop(key).cancel()

    def _proof_ended(self, key: Key, proof: asyncio.Task[None]) -> None:
        if self._proofs.get(key) is proof:
            del self._proofs[key]

    async def _prove(self, rank: Rank) -> None:
        url = rank.url
        try:
            await self._list_models(url)
        except (ClientError, RequestError) as error:
            self._say(url, f"it does not say what it serves: {error}")
            return
        try:
            await self._infer(rank)
        except (ClientError, RequestError) as error:
            self._parts.breakers.probe_failed(rank.address, monotonic())
            self._say(url, f"an inference through it failed: {error}")
            return
        self._parts.breakers.close(rank.address)
        self._set_ready(rank, True)
        if all(self._parts.fleet.ready(each.address) for each in self._ranks(url)):
            self._said.pop(url, None)
        log.info("%s (%s) is ready", rank.label, rank.address)

    async def _infer(self, rank: Rank) -> None:
        if rank.letter == "E":
            headers = self._probe_headers()
            await self._run_probe(self._parts.dialect.prove_encoder(probe_picture(), rank, headers), False)
        else:
            half = rank.letter == "P" or (rank.letter == "D" and not self._parts.dialect.decode_alone)
            await self._probe(Route(Mode.PD, rank, rank if half else None))

    def _set_ready(self, rank: Rank, ready: bool) -> None:
        if self._parts.fleet.ready(rank.address) != ready:
            self._parts.fleet.apply(RankHealth(rank.address, ready))
            self._changed.set()

    def _say(self, what: str, problem: str) -> None:
        # A worker's words, that will stand in logs and terminals.
        problem = "".join(char if char.isprintable() else " " for char in problem)
        if self._said.get(what) != problem:
            log.warning("%s: %s", what, problem)
        self._said[what] = problem

    async def _list_models(self, url: str) -> None:
        status, body = await self._get(url, "/v1/models", self._parts.config.probe_timeout_s)
        try:
            cards = [card for card in loads_answer(body)["data"] if isinstance(card["id"], str)]
        except (ValueError, LookupError, TypeError):
            raise RequestError(502, f"/v1/models answered {status}, no list of models") from None
        self.cards[url] = cards
        self._parts.fleet.apply(ModelsListed(url, tuple(card["id"] for card in cards)))

    # --- pairs ---

    async def _watch_pairs(self) -> None:
        while True:
            self._changed.clear()
            fleet = self._parts.fleet
            able = [
                (p, d)
                for p, d in self.pairs()
                if not self._paired(p, d)
                and fleet.ready(p.address)
                and fleet.ready(d.address)
                and self._parts.breakers.may_probe((p.address, d.address), monotonic())
            ]
            for p, d in able:
                if (p.address, d.address) not in self._proofs:
                    self._begin_proof((p.address, d.address), self._probe_pair(p, d))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAIR_RETRY_S if able else self._parts.config.health_interval_s):
                    await self._changed.wait()

    async def _probe_pair(self, prefill: Rank, decode: Rank) -> None:
        pair = f"{prefill.label}>{decode.label}"
        states = self._states.get(prefill.address), self._states.get(decode.address)
        if states[0] and states[1] and (why := misfit(states[0].build, states[1].build)):
            self._say(pair, why)  # a request would only be refused
            return
        async with self._limits[decode.address]:
            engines = self._identity(prefill), self._identity(decode)
            try:
                crossed = await self._probe(Route(Mode.PD, decode, prefill))
            except (ClientError, RequestError) as error:
                self._parts.breakers.probe_failed((prefill.address, decode.address), monotonic())
                self._say(pair, f"a request did not cross: {error}")
                return
            if not crossed:  # answers are right, and nothing is won by the pair
                log.warning("%s: answered, but no blocks came: the decode worker computes prompts again", pair)
            # A restart meanwhile makes the proof worthless.
            if engines == (self._identity(prefill), self._identity(decode)):
                self._said.pop(pair, None)
                self._parts.breakers.close((prefill.address, decode.address))
                self._parts.fleet.apply(PairHealth(prefill.address, decode.address, True))

    def _identity(self, rank: Rank) -> tuple[str | None, bool]:
        return self._engines.get(rank.address), self._parts.fleet.ready(rank.address)

    # --- probing ---

    async def _probe(self, way: Route) -> bool:
        """Send an inference this way; of a prefill rank alone, only its leg. Return whether a decode rank took over.
        Raises ClientError or RequestError."""
        models = self._parts.fleet.models.get(way.decode.url)
        body: dict[str, object] = {
            "model": models[0] if models else "",
            # Unlike any other prompt from its first token on: a cache must not answer in the transfer's place.
            "prompt": f"{secrets.token_hex(8)} {PROBE_WORDS}",
            "max_tokens": 2,
            "temperature": 0,
            "ignore_eos": True,
        }
        request = ClientRequest(COMPLETIONS_PATH, body, dump(body), self._probe_headers())
        return await self._run_probe(self._parts.dialect.begin(request, way), way.prefill is way.decode)

    def _probe_headers(self) -> tuple[tuple[str, str], ...]:
        return self._parts.door.worker_headers("probe-" + secrets.token_hex(4), {})

    async def _run_probe(self, exchange: Exchange, half: bool) -> bool:
        """Send a probe's legs, of `half` a pair only the first ones. Return whether a decode rank took over. Raises
        ClientError or RequestError."""
        accepted = False
        try:
            async with asyncio.timeout(self._parts.config.probe_timeout_s):
                step: object = exchange.start()
                while isinstance(step, Legs):
                    step, accepted = await self._exchange(exchange, step)
                    if isinstance(step, Legs) and half:
                        return False
        except TimeoutError:
            raise RequestError(504, "no answer in time") from None
        finally:
            self._parts.handoffs.release(exchange.on_exit(accepted))
        if isinstance(step, Failure):
            raise step.error
        if isinstance(step, Reply) and step.status != 200:
            raise RequestError(step.status, f"it answered {step.status}: {step.body[:200].decode(errors='replace')}")
        return accepted

    async def _exchange(self, exchange: Exchange, legs: Legs) -> tuple[Step, bool]:
        """Send legs, all at once; return the step that decides, and whether D took over. It ends the other legs."""
        tasks = {asyncio.ensure_future(self._parts.sender.whole(leg)): leg for leg in legs.legs}
        waiting, more = set(tasks), tuple[Leg, ...]()
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    leg, answer = tasks[task], task.result()
                    step = exchange.on_answer(leg, answer)
                    if not isinstance(step, Legs):
                        # If the blocks did not come, and D computed them, P still holds them.
                        took = leg.stage is Stage.DECODE and answer.headers.get("x-tercet-external-tokens") != "0"
                        return step, took and answer.status == 200
                    more += step.legs
            return Legs(more), False
        finally:
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.wait(waiting)

    async def _get(self, url: str, path: str, timeout_s: float) -> tuple[int, bytes]:
        headers = self._parts.door.worker_headers("health", {})
        response = await self._parts.client.request(
            "GET", url + path, headers=headers, first_byte_timeout_s=timeout_s, idle_timeout_s=timeout_s
        )
        return response.status, await response.read(max_bytes=1 << 20)

    def _ranks(self, url: str) -> list[Rank]:
        return [rank for rank in self._parts.fleet.ranks.values() if rank.url == url]

    def _all(self, letter: str) -> list[Rank]:
        return [rank for rank in self._parts.fleet.ranks.values() if rank.letter == letter]

    def _paired(self, prefill: Rank, decode: Rank) -> bool:
        return self._parts.fleet.paired(prefill.address, decode.address)
