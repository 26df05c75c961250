"""A stand-in for SGLang's server in disaggregation mode, after sglang 0.5.23.

`PDRoutingFields` (entrypoints/openai/protocol.py), the intake of the scheduler (a request without a room: 400), and the
rendezvous of disaggregation/{prefill,decode}.py: P keeps its answer back until D took the blocks, D until P has them;
who is alone waits (300 s there, until cancelled here). Unknown fields are ignored, as pydantic does by default.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from tercet.http.server import Request, Responder
from tests.conformance.engine import Engine, Refused, limit_of, words_of

FAKE_HOST = "2.2.2.2"
OWN_FIELDS = {"routed_dp_rank", "disagg_prefill_dp_rank"}


@dataclass
class Room:
    """Where one request's two legs meet."""

    prefill: asyncio.Event = field(default_factory=asyncio.Event)
    decode: asyncio.Event = field(default_factory=asyncio.Event)
    body: dict[str, Any] = field(default_factory=dict)
    rank: int = 0
    cached: int = 0


class Rooms:
    """The rooms of all prefill workers of one test, by bootstrap host, port and number."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, int, int], Room] = {}
        self.used: list[int] = []

    def enter(self, host: str, port: int, number: int) -> Room:
        return self._rooms.setdefault((host, port, number), Room())


class SglangServer(Engine):
    """One SGLang worker; P's bootstrap server listens at `bootstrap_port`."""

    ready_paths = ("/health", "/get_model_info")

    def __init__(self, role: str, rooms: Rooms, *, ranks: int = 1, bootstrap_port: int = 8998) -> None:
        super().__init__(role, ranks=ranks)
        self.rooms, self.bootstrap_port = rooms, bootstrap_port
        self.cache_report = True  # --enable-cache-report
        self.late: asyncio.Event | None = None  # P waits for it when D has the blocks, and then fails
        self.answering = 0  # D's answers begun

    async def serve(self, request: Request, body: dict[str, Any], responder: Responder) -> None:
        rank = self._rank(request, body)
        words, limit = words_of(body), limit_of(body)
        cached = self.cached if self.cache_report else None
        if self.role == "A":
            if any(key.startswith("bootstrap_") for key in body):
                raise self.fault("bootstrap fields at a worker that is not disaggregated")
            await self.answer(request, body, words, responder, limit, cached=cached)
            return
        host, port, number = self._meeting(body)
        if host == FAKE_HOST:  # nothing moves; the answer is nonsense
            await self.answer(request, body, ["?"], responder, 1, cached=None)
            return
        # P says its own port, whatever the request says; D believes the request.
        room = self.rooms.enter(host, self.bootstrap_port if self.role == "P" else port, number)
        if self.role == "P":
            if room.prefill.is_set():
                raise self.fault(f"room {number} is used twice")
            self.rooms.used.append(number)
            room.body, room.rank, room.cached = body, rank, self.cached
            room.prefill.set()
            await room.decode.wait()
            if self.late is not None:
                await self.late.wait()
                raise Refused(500, "Prefill transfer failed", "InternalServerError")
            await self.answer(request, body, words, responder, 1, cached=cached)
            return
        await room.prefill.wait()
        asked = body.get("disagg_prefill_dp_rank")
        if (room.rank if asked is None else asked) != room.rank or (asked is None and room.rank):
            self.faults.append(f"D asks rank {asked} of P for blocks that rank {room.rank} has")
            await asyncio.Event().wait()
        if plain(room.body) != plain(body):
            raise self.fault(f"P and D got different bodies: {room.body} and {body}")
        room.decode.set()
        self.answering += 1
        await self.answer(request, body, words, responder, limit, cached=room.cached if self.cache_report else None)

    def _rank(self, request: Request, body: dict[str, Any]) -> int:
        if "data_parallel_rank" in body:
            raise self.fault("data_parallel_rank is deprecated")
        rank = body.get("routed_dp_rank")
        header = request.headers.get("x-data-parallel-rank")
        if header is not None and header != str(rank):
            raise self.fault(f"header X-Data-Parallel-Rank {header} overrides routed_dp_rank {rank}")
        if self.ranks == 1:
            if rank:
                raise self.fault(f"routed_dp_rank={rank} out of range [0, 1)")
            return 0
        if not isinstance(rank, int) or not 0 <= rank < self.ranks:
            raise self.fault(f"routed_dp_rank={rank} out of range [0, {self.ranks})")
        return rank

    def _meeting(self, body: dict[str, Any]) -> tuple[str, int, int]:
        host, port, number = (body.get(f"bootstrap_{key}") for key in ("host", "port", "room"))
        if number is None:
            raise self.fault("Disaggregated request received without bootstrap room id")
        if type(number) is not int or not 0 <= number < 2**63:
            raise self.fault(f"bootstrap_room {number!r} is no int64")
        if host == FAKE_HOST:
            return FAKE_HOST, 0, number
        if number == 0:
            raise self.fault("room 0 never becomes ready")
        if type(host) is not str or type(port) is not int:
            raise self.fault(f"bootstrap_host {host!r} and bootstrap_port {port!r}")
        if self.role == "P" and "disagg_prefill_dp_rank" in body:
            raise self.fault("disagg_prefill_dp_rank at a prefill worker")
        return host, port, number


def plain(body: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in body.items() if key not in OWN_FIELDS}, sort_keys=True)
