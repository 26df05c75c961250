"""A stand-in for SGLang's server in disaggregation mode, after sglang 0.5.23.

`PDRoutingFields` (entrypoints/openai/protocol.py), the intake of the scheduler (a request without a room: 400), and the
rendezvous of disaggregation/{prefill,decode}.py: P keeps its answer back until D took the blocks, D until P has them;
who is alone waits, and fails when SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT (300 s, `patience_s`) is over.

Stricter than the engine, which would ignore them: unknown `bootstrap_` fields, numbers that are strings, a deprecated
field, legs that differ. Other unknown fields are ignored, as pydantic does by default. Several choices are refused,
where the engine has them all wait in one room (`_handle_batch_request` of managers/tokenizer_manager.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tercet.http.server import Request, Responder
from tests.conformance.engine import Engine, Refused, limit_of, meet, words_of

FAKE_HOST = "2.2.2.2"
OWN_FIELDS = {"routed_dp_rank", "disagg_prefill_dp_rank"}
"""In which alone P's body and D's differ."""

FIELDS: dict[str, Callable[[Any], bool]] = {
    "bootstrap_host": lambda value: type(value) is str and value != "",
    "bootstrap_port": lambda value: type(value) is int and 0 < value < 2**16,
    "bootstrap_room": lambda value: type(value) is int and 0 < value < 2**63,
}
"""What brings P and D together, all of which both legs need. Room 0 is that of a buffer nobody wrote to yet."""


@dataclass
class Room:
    """Where one request's two legs meet."""

    prefill: asyncio.Event = field(default_factory=asyncio.Event)
    decode: asyncio.Event = field(default_factory=asyncio.Event)
    body: dict[str, Any] = field(default_factory=dict)
    rank: int = 0
    cached: int = 0
    lost: bool = False


class Rooms:
    """The rooms of all prefill workers of one test, by bootstrap host, port, rank of P and number."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, int, int, int], Room] = {}
        self.used: list[int] = []

    def enter(self, host: str, port: int, rank: int, number: int) -> Room:
        return self._rooms.setdefault((host, port, rank, number), Room())


class SglangServer(Engine):
    """One SGLang worker; P's bootstrap server listens at `bootstrap_port`."""

    ready_paths = ("/health", "/model_info")

    def __init__(self, role: str, rooms: Rooms, *, ranks: int = 1, bootstrap_port: int = 8998) -> None:
        super().__init__(role, ranks=ranks)
        self.rooms, self.bootstrap_port = rooms, bootstrap_port
        self.cache_report = True  # --enable-cache-report
        self.late: asyncio.Event | None = None  # P waits for it when D has the blocks, and then fails
        self.loses_blocks = False  # P's transfer fails, and both legs with it
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
        elif self.role == "P":
            # P says its own port, whatever the request says; D believes the request.
            room = self.rooms.enter(host, self.bootstrap_port, rank, number)
            await self._prefill(room, number, rank, body)
            await self.answer(request, body, words, responder, 1, cached=cached)
        else:
            room = self.rooms.enter(host, port, self._rank_of_p(body), number)
            await self._fetch(room, number, body)
            self.answering += 1
            had = room.cached if self.cache_report else None
            # The first token's logprobs came with the blocks, the prompt's did not.
            await self.answer(request, body, words, responder, limit, cached=had, prompt_logprobs=False)

    async def _prefill(self, room: Room, number: int, rank: int, body: dict[str, Any]) -> None:
        if room.prefill.is_set():
            raise self.fault(f"room {number} is used twice")
        self.rooms.used.append(number)
        room.body, room.rank, room.cached, room.lost = body, rank, self.cached, self.loses_blocks
        room.prefill.set()
        await meet(self.patience_s, room.decode, f"Request {number} in KVPoll.Bootstrapping")
        if room.lost:
            raise Refused(500, f"Prefill transfer failed for room {number}", "InternalServerError")
        if self.late is not None:
            await self.late.wait()
            raise Refused(500, "Prefill transfer failed", "InternalServerError")

    async def _fetch(self, room: Room, number: int, body: dict[str, Any]) -> None:
        await meet(self.patience_s, room.prefill, f"Decode handshake of room {number}")
        if room.decode.is_set():
            raise self.fault(f"room {number} is read twice")
        if plain(room.body) != plain(body):
            raise self.fault(f"P and D got different bodies: {room.body} and {body}")
        room.decode.set()
        if room.lost:
            raise Refused(500, f"Decode transfer failed for room {number}", "InternalServerError")

    # --- what a request must hold ---

    def _rank(self, request: Request, body: dict[str, Any]) -> int:
        if "data_parallel_rank" in body:
            raise self.fault("data_parallel_rank is deprecated")
        rank = body.get("routed_dp_rank")
        header = request.headers.get("x-data-parallel-rank")
        if header is not None and header != str(rank):
            raise self.fault(f"header X-Data-Parallel-Rank {header} overrides routed_dp_rank {rank}")
        if rank is None and self.ranks == 1:
            return 0
        if type(rank) is not int or not 0 <= rank < self.ranks:
            raise self.fault(f"routed_dp_rank={rank} out of range [0, {self.ranks})")
        return rank

    def _rank_of_p(self, body: dict[str, Any]) -> int:
        """Return the rank of P that D looks for: without a word of it the first, where there is but one."""
        rank = body.get("disagg_prefill_dp_rank", 0)
        if type(rank) is not int or rank < 0:
            raise self.fault(f"disagg_prefill_dp_rank={rank!r}")
        return rank

    def _meeting(self, body: dict[str, Any]) -> tuple[str, int, int]:
        if body.get("n") not in (None, 1):
            raise self.fault(f"n={body['n']}: the choices would share room {body.get('bootstrap_room')}")
        if body.get("bootstrap_room") is None:
            raise self.fault("Disaggregated request received without bootstrap room id")
        if unknown := {key for key in body if key.startswith("bootstrap_")} - FIELDS.keys():
            raise self.fault(f"unknown fields {sorted(unknown)}")
        host, port, number = (body.get(key) for key in FIELDS)
        if host == FAKE_HOST and type(number) is int and 0 <= number < 2**63:
            return FAKE_HOST, 0, number
        for key, good in FIELDS.items():
            if not good(body.get(key)):
                raise self.fault(f"{key}={body.get(key)!r}")
        if self.role == "P" and "disagg_prefill_dp_rank" in body:
            raise self.fault("disagg_prefill_dp_rank at a prefill worker")
        return str(host), int(port or 0), int(number or 0)


def plain(body: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in body.items() if key not in OWN_FIELDS}, sort_keys=True)
