"""Dialects whose legs run at once: the first failure cancels the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.handoff import leg_headers
from tercet.dialects.protocol import Answer, EngineState, Exchange, Failure, Headers, Leg, Legs, Reply, Step
from tercet.dialects.refusal import worker_error
from tercet.dialects.request import ClientRequest
from tercet.dialects.tercet import TercetDialect
from tests.unit.router.harness import Setup, routing, until


class BothAtOnce:
    """P and D get the same body at once; only D's answer counts."""

    def __init__(self, request: ClientRequest, route: Route) -> None:
        self.request, self.route = request, route

    def start(self) -> Legs:
        request, prefill, decode = self.request, self.route.prefill, self.route.decode
        assert prefill is not None
        legs = (
            Leg(Stage.PREFILL, prefill, request.path, leg_headers(request, prefill), request.raw),
            Leg(Stage.DECODE, decode, request.path, leg_headers(request, decode), request.raw, request.stream),
        )
        return Legs(legs)

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        if answer.status != 200:
            return Failure(worker_error(leg.rank, answer), leg.rank, retry=False)
        return Legs(()) if leg.stage is Stage.PREFILL else Reply(200, answer.body)

    def pictures(self) -> dict[int, tuple[str, int]]:
        return {}

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        return ()


@dataclass(frozen=True)
class ConcurrentDialect:
    name: str = "both"
    ready_path: str = "/ready"
    reset_path: str = "/cache/reset"
    kv_use: tuple[str, str] | None = None
    decode_alone: bool = True
    one_choice: bool = False
    rank_match: str = "any"
    encodes: bool = False

    def prove_encoder(self, picture: str, rank: Rank, headers: Headers) -> Exchange:
        return TercetDialect().prove_encoder(picture, rank, headers)

    def begin(self, request: ClientRequest, route: Route) -> Exchange:
        # Probes come before the pair is known; they go one after the other.
        probing = request.headers[0][1].startswith("probe-")
        return TercetDialect().begin(request, route) if probing or not route.prefill else BothAtOnce(request, route)

    def engines(self, ready_answer: bytes) -> tuple[EngineState, ...]:
        return TercetDialect().engines(ready_answer)


@asynccontextmanager
async def concurrent() -> AsyncIterator[Setup]:
    async with routing("PD", "pd") as setup:
        setup.router.parts = replace(setup.router.parts, dialect=ConcurrentDialect())
        setup.role("P")[0].role = "A"  # serves the plain body that it is sent here
        yield setup


@pytest.mark.parametrize("stream", [False, True])
async def test_both_legs_run_at_once_and_d_answers(stream: bool) -> None:
    async with concurrent() as setup:
        prefill, decode = setup.workers
        prefill.gate = decode.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c", max_tokens=2, stream=stream))
        await until(lambda: prefill.running and decode.running)
        decode.gate.set()
        got = await request
        assert (got.streamed if stream else got.text) == "w3 w4"
        await setup.idle()


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_failing_leg_cancels_the_other(broken: int, stream: bool) -> None:
    async with concurrent() as setup:
        bad, good = setup.workers[broken], setup.workers[1 - broken]
        bad.status = 500
        good.gate = asyncio.Event()
        got = await asyncio.wait_for(setup.complete("a b c", stream=stream), 30)
        assert got.status == 500
        await until(lambda: good.cancelled == 1)
        await setup.idle()


async def test_the_client_leaving_cancels_both() -> None:
    async with concurrent() as setup:
        for worker in setup.workers:
            worker.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c"))
        await until(lambda: all(worker.running for worker in setup.workers))
        request.cancel()
        await until(lambda: all(worker.cancelled == 1 for worker in setup.workers))
        await setup.idle()


@pytest.mark.parametrize("late", [False, True])
async def test_the_record_of_legs_that_ran_at_once(late: bool) -> None:
    """D may have answered before P did, which is then given up: that is no error of the request."""
    async with concurrent() as setup:
        (prefill,), (decode,) = setup.role("A"), setup.role("D")
        held = asyncio.Event()
        (prefill if late else decode).gate = held
        asking = asyncio.create_task(setup.complete("a b", max_tokens=3, stream=True))
        if not late:
            await until(lambda: prefill.inferences and decode.running and not prefill.running)
            await asyncio.sleep(0.02)
            held.set()
        assert (await asking).streamed == "w2 w3 w4"
        held.set()
        await setup.idle()
        (record,) = (await setup.get("/requests")).json["requests"]
        assert (record["status"], record["error"], record["finish_reason"]) == (200, None, "length")
        spans = {span["phase"]: span for span in record["spans"] if span["worker"] == "D0"}
        (p,) = [span for span in record["spans"] if span["phase"] == "prefill"]
        assert p["worker"] == "P0" and p.get("error") == ("cancelled" if late else None)
        if not late:
            assert min(span["start_ms"] for span in spans.values()) >= p["end_ms"], "P's time isn't D's"
        assert await setup.metric("tercet:router_time_per_output_token_seconds_count") == 1
        assert await setup.metric("tercet:router_prefill_seconds_count") == (0 if late else 1)
