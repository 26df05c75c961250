"""Administration: what the operator asks and changes while the router runs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, time
from typing import Any
from urllib.parse import parse_qs

from tercet import __version__
from tercet.core.errors import RequestError, UsageError
from tercet.core.stage import Mode, role_letter
from tercet.core.topology import WorkerSpec, missing_stage, mode_from_name
from tercet.http.client import ClientError
from tercet.http.server import Request, Responder
from tercet.router.exposition import joined
from tercet.router.gauges import FleetGauges
from tercet.router.health import Prober
from tercet.router.kv_use import KvUse
from tercet.router.parts import Parts
from tercet.router.record import KEPT
from tercet.router.roster import Roster
from tercet.routing.events import CacheCleared, ConversationsCleared, ModeChanged
from tercet.routing.facts import RequestFacts
from tercet.routing.modes import route
from tercet.routing.pictures import Picture
from tercet.routing.policy import DEFAULT_BALANCERS
from tercet.routing.refusal import Refusal

RESET_TIMEOUT_S = 60.0
BREAKER_WORDS = ("closed", "half-open", "open")
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Admin:
    """Answers everything that is not for a worker."""

    def __init__(
        self,
        parts: Parts,
        prober: Prober,
        roster: Roster,
        kv_use: KvUse,
        processes: Callable[[], list[dict[str, object]]],
    ) -> None:
        self._parts, self._prober, self._roster, self._kv_use = parts, prober, roster, kv_use
        self._processes = processes
        self._started = monotonic()

    async def health(self, request: Request, responder: Responder) -> None:
        """GET /health: the router lives."""
        await _json(responder, 200, {"status": "ok"})

    async def ready(self, request: Request, responder: Responder) -> None:
        """GET /ready: 200 when a request would find a route, else 503 with the reason. Where the workers are and what
        they lack is for insiders."""
        reason = self._not_ready()
        data: dict[str, object] = {"ready": reason is None, "mode": self._parts.fleet.mode}
        if reason is not None:
            data["reason"] = reason
        if self._parts.door.insider(request.headers):
            data["workers"] = list(self._parts.fleet.workers)
            if reason is not None:
                data["problems"] = self._problems()
        await _json(responder, 200 if reason is None else 503, data)

    async def metrics(self, request: Request, responder: Responder) -> None:
        """GET /metrics, for Prometheus."""
        parts = self._parts
        parts.metrics.keep({rank.label for rank in parts.fleet.ranks.values()})
        gauges = FleetGauges(parts.fleet, parts.handoffs, parts.breakers, parts.gates)
        await responder.send(200, await joined(parts.metrics.pieces(gauges)), content_type=PROMETHEUS)

    async def mode(self, request: Request, responder: Responder) -> None:
        """GET /mode: the mode, and of each whether this topology can run it."""
        await _json(responder, 200, {"mode": self._parts.fleet.mode, "modes": self._modes()})

    async def set_mode(self, request: Request, responder: Responder) -> None:
        """POST /mode/{name}: route requests by that mode from now on. 404 unknown, 409 when a stage is missing."""
        try:
            mode = mode_from_name(request.path.removeprefix("/mode/"))
        except UsageError as error:
            raise RequestError(404, str(error), code="unknown_mode") from None
        before = self._parts.fleet.mode
        self.change_mode(mode)
        await _json(responder, 200, {"mode": mode, "before": before})

    def change_mode(self, mode: Mode) -> None:
        """Route requests by that mode from now on. Raises RequestError 409."""
        if reason := missing_stage(mode, self._specs()):
            raise RequestError(409, reason, code="missing_stage")
        if reason := self._parts.config.unable(mode):
            raise RequestError(409, reason, code="not_in_this_dialect")
        self._parts.fleet.apply(ModeChanged(mode))

    async def status(self, request: Request, responder: Responder) -> None:
        """GET /status: everything worth knowing at a glance."""
        parts, fleet = self._parts, self._parts.fleet
        reason = self._not_ready()
        self._kv_use.look()
        await _json(
            responder,
            200,
            {
                "version": __version__,
                "time": round(time(), 3),
                "mode": fleet.mode,
                "modes": self._modes(),
                "ready": reason is None,
                "reason": reason,
                "dialect": parts.dialect.name,
                "balancer": parts.policy.balancer or DEFAULT_BALANCERS[fleet.mode],
                "ppd_threshold": parts.policy.ppd_threshold,
                "hybrid": parts.policy.hybrid,
                "rank_match": parts.policy.rank_match,
                "encode_fallback": parts.config.encode_fallback,
                "uptime_s": round(monotonic() - self._started, 1),
                "in_flight": fleet.in_flight,
                "waiting": parts.gates.waiting,
                "conversations": fleet.conversation_count,
                "workers": [self._worker(url) for url in fleet.workers],
                "pairs": self._pairs(),
                "unmatched": self._prober.unmatched(),
                "processes": self._processes(),
                "counts": parts.metrics.summary(),
            },
        )

    async def requests(self, request: Request, responder: Responder) -> None:
        """GET /requests?limit=N: the records of the latest requests for generation, the latest to end first. Raises
        RequestError 400."""
        asked = parse_qs(request.query, keep_blank_values=True).get("limit", [str(KEPT)])[0]
        if not re.fullmatch(r"[0-9]{1,9}", asked) or not 1 <= int(asked) <= KEPT:
            raise RequestError(400, f"limit is a number from 1 to {KEPT}", param="limit")
        records = self._parts.recent.latest(int(asked))
        await _json(responder, 200, {"kept": KEPT, "requests": [record.to_json() for record in records]})

    async def models(self, request: Request, responder: Responder) -> None:
        """GET /v1/models: the models of all workers, each once."""
        await _json(responder, 200, {"object": "list", "data": list(self._cards().values())})

    async def model(self, request: Request, responder: Responder) -> None:
        """GET /v1/models/{id}. Raises RequestError 404."""
        name = request.path.removeprefix("/v1/models/")
        card = self._cards().get(name)
        if card is None:
            raise RequestError(404, f"model {name!r} is not served here", code="model_not_found", param="model")
        await _json(responder, 200, card)

    async def clear_conversations(self, request: Request, responder: Responder) -> None:
        """POST /conversations/clear: forget who holds what; the workers' caches stay."""
        count = self._parts.fleet.conversation_count
        self._parts.fleet.apply(ConversationsCleared())
        await _json(responder, 200, {"cleared": count})

    async def clear_metrics(self, request: Request, responder: Responder) -> None:
        """POST /metrics/clear: count from zero again."""
        self._parts.metrics.clear()
        await _json(responder, 200, {"cleared": True})

    async def reset_cache(self, request: Request, responder: Responder) -> None:
        """POST /cache/reset: empty every worker's prefix cache, and what the router knows of it. 502 when one did
        not."""
        urls = list(self._parts.fleet.workers)
        done = await asyncio.gather(*(self._reset(url) for url in urls))
        self._parts.fleet.apply(CacheCleared())
        problems = {url: problem for url, problem in zip(urls, done, strict=True) if problem}
        if problems:
            listed = "; ".join(f"{url}: {problem}" for url, problem in problems.items())
            raise RequestError(502, f"not every worker emptied its cache: {listed}", code="cache_not_reset")
        await _json(responder, 200, {"reset": True, "workers": urls})

    # --- what is reported ---

    def _not_ready(self) -> str | None:
        parts = self._parts
        # Where encode workers encode, a request with a picture has to find its way.
        pictures = (Picture(None, 0),) if parts.fleet.mode.encodes_apart else ()
        found = route(parts.fleet.mode, RequestFacts(model="", pictures=pictures), parts.fleet, parts.policy)
        return found.reason if isinstance(found, Refusal) else None

    def _problems(self) -> dict[str, str]:
        return {url: why for url in self._parts.fleet.workers if (why := self._prober.problem(url))}

    def _specs(self) -> tuple[WorkerSpec, ...]:
        return tuple(WorkerSpec(w.url, w.stages, w.ranks) for w in self._parts.fleet.workers.values())

    def _modes(self) -> dict[str, str | None]:
        unable = self._parts.config.unable
        return {mode.value: missing_stage(mode, self._specs()) or unable(mode) for mode in Mode}

    def _worker(self, url: str) -> dict[str, object]:
        fleet, worker = self._parts.fleet, self._parts.fleet.workers[url]
        ranks = [rank for rank in fleet.ranks.values() if rank.url == url]
        return {
            "url": url,
            "role": role_letter(worker.stages),
            "stages": sorted(stage.value for stage in worker.stages),
            "ready": all(fleet.ready(rank.address) for rank in ranks),
            "draining": url in self._roster.draining,
            "drain_left_s": self._roster.left_s(url),
            "problem": self._prober.problem(url),
            "models": list(fleet.models.get(url, ())),
            "ranks": [
                {
                    "name": rank.label,
                    "address": rank.address,
                    "ready": fleet.ready(rank.address),
                    "breaker": BREAKER_WORDS[self._parts.breakers.state(rank.address)],
                    "requests": fleet.load(rank).requests,
                    "tokens": fleet.load(rank).tokens,
                    "routed": fleet.load(rank).routed,
                    "prefix_blocks": fleet.prefix_blocks(rank.address),
                    "told_blocks": fleet.told_blocks(rank.address),
                    "kv_use": None if rank.letter == "E" else self._kv_use.of(rank.address),
                    "pictures": fleet.picture_count(rank.address),
                    "unaccepted_handoffs": self._parts.handoffs.unaccepted(rank.address),
                }
                for rank in ranks
            ],
        }

    def _pairs(self) -> list[dict[str, object]]:
        named = ((f"{p.label}>{d.label}", p, d) for p, d in self._prober.pairs())
        return [
            {
                "pair": name,
                "ready": (ready := self._parts.fleet.paired(p.address, d.address)),
                "breaker": BREAKER_WORDS[self._parts.breakers.state((p.address, d.address))],
                "problem": None if ready else self._prober.problem(name),
            }
            for name, p, d in named
        ]

    def _cards(self) -> dict[str, dict[str, Any]]:
        cards: dict[str, dict[str, Any]] = {}
        for url in self._parts.fleet.workers:
            for card in self._prober.cards.get(url, []):
                cards.setdefault(card["id"], card)
        return cards

    async def _reset(self, url: str) -> str | None:
        """Empty one worker's cache; return what went wrong, if anything."""
        parts = self._parts
        try:
            response = await parts.client.request(
                "POST",
                url + parts.dialect.reset_path,
                headers=parts.door.worker_headers("cache-reset", {}),
                first_byte_timeout_s=RESET_TIMEOUT_S,
                idle_timeout_s=RESET_TIMEOUT_S,
            )
            body = await response.read(max_bytes=1 << 20)
        except ClientError as error:
            return str(error)
        if response.status >= 400 or _says_no(body):
            return f"it answered {response.status}: {body[:200].decode(errors='replace')}"
        return None


async def _json(responder: Responder, status: int, data: dict[str, Any]) -> None:
    await responder.send(status, json.dumps(data).encode())


def _says_no(body: bytes) -> bool:
    """True for `{"success": false}`: what an engine with blocks still in use answers, and 200."""
    with suppress(ValueError):
        data = json.loads(body)
        return isinstance(data, dict) and data.get("success") is False
    return False
