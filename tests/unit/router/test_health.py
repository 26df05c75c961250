"""Readiness is proven by inferences, and forgotten with what it rested on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tercet.core.errors import RequestError
from tercet.dialects.protocol import EngineState
from tercet.dialects.tercet import TercetDialect
from tercet.http.server import Request, Responder
from tercet.router.health import NOT_TAKEN_IN
from tests.unit.core.test_build import BUILD
from tests.unit.router.fake_worker import FakeWorker, Tickets
from tests.unit.router.harness import routing, until


async def test_a_worker_is_ready_when_an_inference_through_it_succeeded() -> None:
    async with routing("A", wait=False) as setup:
        (worker,) = setup.workers
        worker.status = 500  # /ready says yes, inferences fail
        await until(lambda: worker.seen)
        assert not setup.router.parts.fleet.ready(worker.url)
        assert (await setup.get("/ready")).status == 503
        worker.status = 200
        await setup.ready()
        assert (await setup.complete("a")).status == 200


async def test_a_workers_trouble_is_told_in_one_plain_line(caplog: pytest.LogCaptureFixture) -> None:
    async with routing("A", wait=False) as setup:
        (worker,) = setup.workers
        worker.status, worker.error = 500, {"message": "stuck\n2026-01-01 INFO forged \x1b[2J", "code": None}
        await until(lambda: "stuck" in str(setup.router.prober.problem(worker.url)))
        assert str(setup.router.prober.problem(worker.url)).isprintable()
    said = [record.getMessage() for record in caplog.records if "stuck" in record.getMessage()]
    assert said and all(line.isprintable() for line in said)


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 100_000,
        b'{"engines": ' + b"[" * 100_000,
        b'{"engines": [{"rank": 1e999, "engine_id": "e", "ready": true}]}',
        b"\xff\xfe",
        b"",
    ],
)
@pytest.mark.parametrize("path", ["/ready", "/v1/models"])
async def test_a_worker_that_says_nonsense_is_looked_at_again(path: str, said: bytes) -> None:
    async with routing("A", wait=False) as setup:
        (worker,) = setup.workers
        worker.says[path] = said
        await until(lambda: setup.router.prober.problem(worker.url) or worker.seen)
        worker.says.clear()
        await setup.ready()
        worker.ready = False
        await until(lambda: not setup.router.parts.fleet.ready(worker.url))


async def test_a_look_that_fails_by_a_fault_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async with routing("A") as setup:
        (worker,) = setup.workers

        def faulty(_self: object, _answer: bytes) -> tuple[EngineState, ...]:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(TercetDialect, "engines", faulty)
            await until(lambda: not setup.router.parts.fleet.ready(worker.url))
            assert setup.router.prober.problem(worker.url) == NOT_TAKEN_IN
        await setup.ready()


async def test_every_rank_is_probed() -> None:
    async with routing("A", ranks=3) as setup:
        probed = {headers["x-data-parallel-rank"] for _, _, headers in setup.workers[0].seen}
        assert probed == {"0", "1", "2"}


async def test_a_rank_that_fails_keeps_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = FakeWorker._rank

    def broken(self: FakeWorker, request: Request) -> str:
        if serve(self, request) == "0":
            raise RequestError(500, "this engine is stuck")
        return serve(self, request)

    monkeypatch.setattr(FakeWorker, "_rank", broken)
    async with routing("A", "aggregated", ranks=3, wait=False) as setup:
        fleet, url = setup.router.parts.fleet, setup.workers[0].url
        await until(lambda: fleet.ready(f"{url}@1") and fleet.ready(f"{url}@2"))
        assert not fleet.ready(f"{url}@0")
        assert "stuck" in str(setup.router.prober.problem(url))
        assert {(await setup.complete("a")).route for _ in range(4)} == {"A1", "A2"}
        monkeypatch.undo()
        await setup.ready()
        await until(lambda: setup.router.prober.problem(url) is None)


async def test_a_rank_that_hangs_hides_no_worker_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, handle, still = FakeWorker._inference, FakeWorker.handle, asyncio.Event()

    async def hanging(self: FakeWorker, request: Request, responder: Responder) -> None:
        if request.headers["x-data-parallel-rank"] == "0":
            await asyncio.Event().wait()
        await serve(self, request, responder)

    async def standing_still(self: FakeWorker, request: Request, responder: Responder) -> None:
        if still.is_set():
            await asyncio.Event().wait()
        await handle(self, request, responder)

    monkeypatch.setattr(FakeWorker, "_inference", hanging)
    monkeypatch.setattr(FakeWorker, "handle", standing_still)
    async with routing("A", "aggregated", ranks=2, wait=False) as setup:
        fleet, url = setup.router.parts.fleet, setup.workers[0].url
        await until(lambda: fleet.ready(f"{url}@1"))
        still.set()
        await until(lambda: not fleet.ready(f"{url}@1"), 20)  # the other's proof may take 60 s
        still.clear()
        await until(lambda: fleet.ready(f"{url}@1"))
        await setup.router.prober.close()
    assert not fleet.ready(f"{url}@0")


async def test_a_pair_is_ready_when_a_request_crossed_it() -> None:
    async with routing("PPD", "pd", wait=False) as setup:
        setup.role("D")[0].misfit = True
        fleet = setup.router.parts.fleet
        await until(lambda: all(map(fleet.ready, fleet.ranks)))
        await until(lambda: setup.router.prober.problem("P0>D0"))
        assert (await setup.complete("a")).status == 503
        setup.role("D")[0].misfit = False
        await setup.ready()
        assert (await setup.complete("a")).status == 200
        await setup.idle()


async def test_what_d_did_not_take_over_from_a_probe_is_released_and_said(caplog: pytest.LogCaptureFixture) -> None:
    async with routing("PD", "pd", wait=False) as setup:
        setup.role("D")[0].recomputes = True
        fleet, (p, d) = setup.router.parts.fleet, setup.workers
        await until(lambda: fleet.paired(p.url, d.url))
        await until(lambda: not setup.tickets.held)
        assert setup.tickets.ended["released"] == 2, "P's own proof, and the pair's"
        assert "P0>D0: answered, but no blocks came" in caplog.text


async def test_a_pair_across_which_nothing_comes_keeps_no_other_pair_out() -> None:
    async with routing("PDD", "pd") as setup:
        (prefill,), (returning, stuck) = setup.role("P"), setup.role("D")
        serve, hung, paired = stuck._serve, asyncio.Event(), setup.router.parts.fleet.paired

        async def nothing_comes(path: str, body: dict[str, Any], responder: Responder) -> None:
            if body.get("kv_transfer_params"):
                hung.set()
                await asyncio.Event().wait()
            await serve(path, body, responder)

        stuck._serve = nothing_comes  # type: ignore[method-assign]
        await stuck.restart()
        await asyncio.wait_for(hung.wait(), 30)  # a probe of the pair, which may take 60 s
        before = len(returning.seen)
        await returning.restart()
        await until(lambda: any("kv_transfer_params" in body for _, body, _ in returning.seen[before:]), 20)
        await until(lambda: paired(prefill.url, returning.url))
        assert not paired(prefill.url, stuck.url)
        assert (await setup.complete("a")).route == "P0>D0"
        stuck._serve = serve  # type: ignore[method-assign]
        await stuck.restart()
        await setup.ready()
        await setup.idle()


async def test_a_restart_forgets_caches_conversations_and_pairs_and_probes_again() -> None:
    async with routing("PD", "ppd") as setup:
        (worker,) = setup.role("D")
        fleet = setup.router.parts.fleet
        first = await setup.chat("hello " * 400, max_tokens=3)
        assert len(fleet.index(worker.url)) > 0 and len(fleet.conversations) == 1
        worker.gate = asyncio.Event()  # the new engine does not answer yet
        await worker.restart()
        await until(lambda: not fleet.ready(worker.url))
        assert len(fleet.index(worker.url)) == 0 and len(fleet.conversations) == 0
        assert not fleet.paired(setup.role("P")[0].url, worker.url)
        worker.gate.set()
        await setup.ready()
        again = await setup.chat("hello " * 400, first.text, "again", max_tokens=3)
        assert again.status == 200 and again.route == "P0>D0"
        await setup.idle()


async def test_an_engine_that_restarts_behind_its_front_is_noticed() -> None:
    async with routing("A", ranks=2) as setup:
        (worker,) = setup.workers
        fleet = setup.router.parts.fleet
        await setup.chat("hello " * 400)
        stored = [address for address in fleet.ranks if len(fleet.index(address))]
        assert stored == [f"{worker.url}@0"]
        probes = len(worker.seen)
        worker.engine_ids[0] = "engine-new"
        await until(lambda: not len(fleet.index(stored[0])))
        await setup.ready()
        assert [h["x-data-parallel-rank"] for _, _, h in worker.seen[probes:]] == ["0"], "only that rank is probed"


async def test_a_worker_that_comes_late_is_taken_in() -> None:
    late = await FakeWorker("A", Tickets()).start()
    port, url = late.server.port, late.url
    await late.stop()
    async with routing("", also=(url,), wait=False) as setup:
        await until(lambda: setup.router.prober.problem(url))
        got = await setup.complete("a")
        assert got.status == 503 and got.error["code"] == "no_worker_ready"
        late = await FakeWorker("A", Tickets(), port=port).start()
        try:
            await setup.ready()
            assert (await setup.complete("a")).status == 200
        finally:
            await late.stop()


async def test_a_worker_that_goes_down_and_comes_back() -> None:
    async with routing("AA", "replicated") as setup:
        first = await setup.chat("hello", max_tokens=2)
        holder = setup.workers[int(first.route[1])]
        await holder.stop()
        second = await setup.chat("hello", first.text, "again", max_tokens=2)
        assert second.status == 200 and second.route != first.route
        await holder.restart()
        await setup.ready()
        await setup.idle()


async def test_probes_hold_nothing_back() -> None:
    async with routing("PPDD", "pd") as setup:
        await setup.idle()
        assert all(not worker.inferences for worker in setup.workers)


async def test_exact_ranks_hand_on_to_their_own_number_alone() -> None:
    async with routing("PD", "pd", ranks=3, rank_match="exact") as setup:
        assert [pair["pair"] for pair in (await setup.status())["pairs"]] == ["P0>D0", "P1>D1", "P2>D2"]
        routes = {(await setup.complete(f"{i} b c", max_tokens=3)).route for i in range(12)}
        assert routes == {"P0>D0", "P1>D1", "P2>D2"}
        await setup.idle()


async def test_any_rank_hands_on_to_any() -> None:
    async with routing("PD", "pd", ranks=2) as setup:
        assert len((await setup.status())["pairs"]) == 4
        await setup.idle()


async def test_ranks_without_a_counterpart_are_named() -> None:
    async with routing("PD", "pd", wait=False, rank_match="exact") as setup:
        setup.role("D")[0].engine_ids.append("engine-more")
        await until(lambda: setup.router.prober.unmatched())
        said = (await setup.status())["unmatched"]
        assert "P has 1 ranks and D 2" in said and "rank_match any" in said


async def test_a_pair_that_says_it_does_not_fit_is_not_tried() -> None:
    async with routing("PD", "pd", wait=False) as setup:
        setup.role("P")[0].build = BUILD.to_dict()
        setup.role("D")[0].build = {**BUILD.to_dict(), "dtype": "fp32"}
        await until(lambda: setup.router.prober.problem("P0>D0"))
        (pair,) = (await setup.status())["pairs"]
        assert (pair["pair"], pair["ready"]) == ("P0>D0", False)
        assert pair["problem"] == "KV can't be handed on: dtype bf16 on P, fp32 on D"
        handed_on = [body for _, body, _ in setup.role("D")[0].seen if "kv_transfer_params" in body]
        assert not handed_on, "nothing was sent to find out"
        assert (await setup.complete("a")).status == 503
        setup.role("D")[0].build = BUILD.to_dict()
        await setup.ready()
        assert (await setup.complete("a")).status == 200
        await setup.idle()
