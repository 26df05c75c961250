"""What Prometheus is told: a histogram for each phase, expected against cached tokens, and gauges that come back to
zero."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.router.account import Account
from tercet.router.metrics import RouterMetrics
from tests.unit.router.harness import Setup, routing, until

Labels = tuple[tuple[str, str], ...]
GAUGES = ("in_flight", "waiting", "rank_requests", "rank_tokens", "unaccepted_handoffs")


def samples(metrics: bytes) -> dict[tuple[str, Labels], float]:
    return {
        (sample.name.removeprefix("tercet:router_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.decode())
        for sample in family.samples
    }


async def scrape(setup: Setup) -> dict[tuple[str, Labels], float]:
    await until(lambda: setup.router.parts.fleet.in_flight == 0)  # a client may have its answer a moment earlier
    return samples((await setup.get("/metrics")).body)


def where(worker: str, turn: str, mode: str = "ppd") -> Labels:
    return (("mode", mode), ("turn", turn), ("worker", worker))


async def test_each_phase_has_a_histogram_by_mode_worker_and_turn() -> None:
    async with routing("PD", "ppd") as setup:
        setup.role("D")[0].timing = "queue;dur=0.01, transfer;dur=0.02, prefill;dur=0.03"
        first = await setup.chat("hello " * 50, max_tokens=5, stream=True)
        await setup.chat("hello " * 50, first.streamed, "again", max_tokens=5, stream=True)
        got = await scrape(setup)
        counts = {
            (name.removesuffix("_seconds_count"), dict(labels)["worker"], dict(labels)["turn"]): value
            for (name, labels), value in got.items()
            if name.endswith("_seconds_count") and name != "own_seconds_count"
        }
        assert counts == {
            ("prefill", "P0", "first"): 1,
            ("queue", "D0", "first"): 1,
            ("handoff", "D0", "first"): 1,
            ("decode_first_token", "D0", "first"): 1,
            ("time_to_first_byte", "D0", "first"): 1,
            ("time_per_output_token", "D0", "first"): 1,
            ("duration", "D0", "first"): 1,
            ("queue", "D0", "later"): 1,
            ("handoff", "D0", "later"): 1,
            ("prefill", "D0", "later"): 1,
            ("decode_first_token", "D0", "later"): 1,
            ("time_to_first_byte", "D0", "later"): 1,
            ("time_per_output_token", "D0", "later"): 1,
            ("duration", "D0", "later"): 1,
        }
        assert got["handoff_seconds_sum", where("D0", "first")] == pytest.approx(20e-6)


async def test_encode_legs_and_waits_have_theirs() -> None:
    async with routing("EEPD", "epd", seeing="apart", max_concurrent=1) as setup:
        await asyncio.gather(*(setup.look([b"one", b"two", "what?"], max_tokens=3) for _ in range(2)))
        got = await scrape(setup)
        assert sum(value for (name, _), value in got.items() if name == "encode_seconds_count") >= 1
        assert await setup.metric("tercet:router_admissions_total", result="waited") == 1


async def test_expected_against_cached_tokens() -> None:
    async with routing("PD", "ppd") as setup:
        (worker,) = setup.role("D")
        first = await setup.chat("hello " * 300, max_tokens=5)
        await setup.chat("hello " * 300, first.text, "again", max_tokens=5)
        worker.cache.clear()
        worker.forgets = True
        await setup.chat("hello " * 300, first.text, "again", "and", "again", max_tokens=5)
        got = await scrape(setup)
        assert got["prefix_predictions_total", (("mode", "ppd"), ("result", "right"), ("worker", "P0"))] == 1
        assert got["prefix_predictions_total", (("mode", "ppd"), ("result", "right"), ("worker", "D0"))] == 1
        assert got["prefix_predictions_total", (("mode", "ppd"), ("result", "too_high"), ("worker", "D0"))] == 1
        assert got["prefix_prompt_tokens_total", where("P0", "first")] == 301
        assert got["prefix_cached_tokens_total", where("P0", "first")] == 0
        prompt, cached, expected = (
            got[f"prefix_{name}_tokens_total", where("D0", "later")] for name in ("prompt", "cached", "expected")
        )
        assert 300 <= cached < prompt / 2 and cached + 300 <= expected <= prompt


@pytest.mark.parametrize(
    ("cached", "expected", "result"),
    [(0, 0, "right"), (0, 32, "right"), (0, 33, "too_high"), (33, 0, "too_low"), (100, 132, "right")],
)
def test_what_is_a_wrong_prediction(cached: int, expected: int, result: str) -> None:
    route = Route(Mode.REPLICATED, Rank("A", 0, "http://a"))
    account = Account("x", Mode.REPLICATED, 0, {})
    account.end(200)
    record = account.record()._replace(
        route=route, prompt_tokens=200, cached_tokens=cached, expected_cached_tokens=expected
    )
    metrics = RouterMetrics()
    metrics.ended(record)
    metrics.ended(record._replace(cached_tokens=None))  # an engine that doesn't say
    metrics.ended(record._replace(status=502))
    assert metrics.predictions.values == {("replicated", "A0", result): 1}


async def test_a_worker_that_left_is_forgotten() -> None:
    async with routing("AA", "aggregated", balancer="round_robin") as setup:
        for _ in range(4):
            await setup.complete("a", max_tokens=2)
        assert await setup.metric("tercet:router_duration_seconds_count", worker="A1") == 2
        assert (await setup.send("DELETE", "/workers/A1")).status == 202
        await until(lambda: len(setup.router.parts.fleet.workers) == 1)
        assert await setup.metric("tercet:router_duration_seconds_count", worker="A1") == 0
        assert await setup.metric("tercet:router_duration_seconds_count", worker="A0") == 2
        assert await setup.metric("tercet:router_requests_total") == 4, "what names no worker stays"


async def test_routes_through_who_left_are_forgotten() -> None:
    async with routing("PDD", "pd", balancer="round_robin") as setup:
        for _ in range(2):
            await setup.complete("a")
        assert set((await setup.status())["counts"]["pd"]["routes"]) == {"P0>D0", "P0>D1"}
        assert (await setup.send("DELETE", "/workers/D1")).status == 202
        await until(lambda: len(setup.router.parts.fleet.workers) == 2)
        await setup.get("/metrics")
        assert (await setup.status())["counts"]["pd"]["routes"] == {"P0>D0": 1}


def test_routes_of_several_encode_workers_are_told_apart() -> None:
    metrics = RouterMetrics()
    for path in ("E0+E1>P0>D0", "E0>P0>D0", "E10>A0"):
        metrics.routed("epd", path, "split")
    metrics.keep({"E0", "P0", "D0", "A0"})
    assert metrics.summary()["epd"]["routes"] == {"E0>P0>D0": 1}


def test_breakers_of_who_left_are_forgotten() -> None:
    metrics = RouterMetrics()
    for where in ("P0", "P1", "P0>D0", "P0>D1", "P1>D1"):
        metrics.breakers.add(where)
    metrics.keep({"P0", "D0"})
    opened = [dict(labels)["where"] for name, labels in samples(metrics.render()) if name == "breaker_opened_total"]
    assert opened == ["P0", "P0>D0"]


async def test_gauges_come_back_to_zero_however_requests_end() -> None:
    async with routing("PPDD", "pd", max_concurrent=2, max_queue=2, breaker_failures=99) as setup:
        decodes, prefills = setup.role("D"), setup.role("P")

        async def gauges() -> dict[str, float]:
            return {name: await setup.metric(f"tercet:router_{name}") for name in GAUGES}

        async def zero() -> None:
            await setup.idle()
            assert await gauges() == dict.fromkeys(GAUGES, 0.0)

        gate = asyncio.Event()
        for worker in decodes:
            worker.gate = gate
        asking = [asyncio.create_task(setup.chat("a b c", max_tokens=3, stream=i % 2 == 0)) for i in range(9)]
        await until(lambda: sum(worker.running for worker in decodes) == 4)
        await until(lambda: setup.router.parts.gates.waiting == 2)
        during = await gauges()
        assert (during["in_flight"], during["waiting"], during["rank_requests"]) == (4, 2, 4)
        assert during["unaccepted_handoffs"] == 4
        for i in range(9):  # some under way, some waiting, some refused already
            if i % 3 == 0:
                asking[i].cancel()
        gate.set()
        got = await asyncio.gather(*asking, return_exceptions=True)
        assert {one.status for one in got if not isinstance(one, BaseException)} <= {200, 429}
        await zero()
        for spoil in ({"status": 500}, {"cut_after": 1}, {"finish": "error"}, {"misfit": True}):
            for name, value in spoil.items():
                before = getattr(decodes[0], name)
                for worker in decodes:
                    setattr(worker, name, value)
                await asyncio.gather(*(setup.chat("a b", max_tokens=3, stream=i % 2 == 0) for i in range(4)))
                for worker in decodes:
                    setattr(worker, name, before)
            await setup.ready()
            await zero()
        gate = asyncio.Event()
        for worker in prefills:
            worker.gate = gate
        leaving = asyncio.create_task(setup.chat("a b", max_tokens=3))
        await until(lambda: any(worker.running for worker in prefills))
        leaving.cancel()
        gate.set()
        await zero()
        await setup.workers[2].stop()
        await asyncio.gather(*(setup.chat("a b", max_tokens=3) for _ in range(3)))
        await zero()
        assert await setup.metric("tercet:router_handoff_leaks_total") == 0


def test_the_document_names_every_metric_and_the_labels_of_counters() -> None:
    text = (Path(__file__).parents[3] / "docs" / "observability.md").read_text(encoding="utf-8")
    for metric in RouterMetrics().collect():
        name, labels = metric.name.removeprefix("tercet:router_"), metric._labelnames  # type: ignore[attr-defined]
        apart = metric.type == "counter" and labels and "turn" not in labels
        assert f"`{name}{'{' + ','.join(labels) + '}' if apart else ''}`" in text, name
