"""The record of a run: what makes it no evidence, and its steady window."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter

from tercet.bench.health import TICK_S, Vitals, Watch, judge
from tercet.bench.run import run_record, steady_window, traffic_record, unsteady_notes
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.pictures import Pictures
from tercet.traffic.scripts import Dataset, Script, ScriptTurn
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import Workload

WELL = ClientHealth(0.1, 0.2, 0.1, 0.3, 0.1, saturated=False)
TRAFFIC = TrafficSpec(Workload("t", 8, 4), qps=2.0, num_requests=2)


def request(
    due_s: float, *, turn: int = 1, late_s: float = 0.0, ttft_s: float = 0.05, cached: int | None = None
) -> RequestRecord:
    sent_s = due_s + late_s
    chunks = (sent_s + ttft_s, sent_s + ttft_s + 0.01)
    return RequestRecord("c", turn, due_s, sent_s, chunks[-1], chunks, 8, 2, 2, cached_tokens=cached)


def record(
    *requests: RequestRecord,
    traffic: TrafficSpec = TRAFFIC,
    health: ClientHealth | None = WELL,
    overhead: int = 0,
) -> RunRecord:
    return run_record(
        traffic,
        architecture="a",
        mode="pd",
        block=0,
        order=0,
        salt="s",
        started=datetime.now(UTC),
        records=requests,
        health=health,
        overhead=overhead,
    )


def test_a_late_client_makes_the_run_invalid() -> None:
    punctual, late = [request(i) for i in range(98)], [request(i, late_s=0.006) for i in range(2)]
    vitals = (Vitals((0.5, 1.5), 1.0, 4.0), Vitals((2.5,), 3.0, 4.0))
    well = judge(punctual, vitals)
    assert not well.saturated and not record(*punctual, health=well).invalid
    assert (well.loop_lag_ms_max, well.cpu_fraction) == (2.5, 0.75) and 2.0 < well.loop_lag_ms_p99 < 2.5
    slow = judge([*punctual, *late], vitals)
    assert slow.saturated and 5.9 < slow.lateness_ms_max < 6.1
    run = record(*punctual, *late, health=slow)
    assert run.invalid and "late" in run.invalid_reasons[0] and "5.0 ms is the limit" in run.invalid_reasons[0]
    # Five per cent of a median TTFT of 200 ms are 10 ms.
    assert not judge([request(i, late_s=0.006, ttft_s=0.2) for i in range(9)], vitals).saturated


def test_in_a_closed_loop_it_is_reading_that_is_late() -> None:
    requests = [request(i) for i in range(98)]
    stood = (Vitals((0.0,) * 100 + (90.0, 90.0), 1.0, 4.0),)  # for 0.2 of 1.2 seconds
    assert not judge(requests, stood).saturated, "what was due by the clock was sent in time"
    slow = judge(requests, stood, closed=True)
    assert slow.saturated and "was read 15.0 ms too late on average; 5.0 ms is the limit" in slow.reasons[0]
    assert not judge([request(i, ttft_s=0.31) for i in range(9)], stood, closed=True).saturated
    busy_machine = (Vitals((0.5,) * 95 + (9.0,) * 5, 1.0, 4.0),)
    assert not judge(requests, busy_machine, closed=True).saturated


def test_requests_that_were_never_sent_do_not_make_a_client_punctual() -> None:
    late = [request(0.0, late_s=0.02)]
    skipped = [replace(request(0.0, turn=2), chunk_s=(), failure="not_sent", error="not sent")] * 500
    assert judge([*late, *skipped], ()).saturated


def test_warm_first_turns_make_a_run_invalid_unless_they_share_on_purpose() -> None:
    warm = (request(0.0, cached=16), request(1.0, turn=2, cached=8))
    assert record(*warm).invalid_reasons == ("first turns found 16 tokens in a cache that should have been empty",)
    for shared in (
        Workload("t", 8, 4, prefix_tokens=4),
        Workload("t", 8, 4, pictures=Pictures(pool=3)),
    ):
        assert not record(*warm, traffic=replace(TRAFFIC, workload=shared)).invalid
    chat = replace(TRAFFIC, workload=Workload("t", 8, 4, pictures=Pictures()))
    assert record(*warm, traffic=chat).invalid
    assert not record(*warm, traffic=chat, overhead=16).invalid  # a chat template's tokens are in every prompt
    assert record(*warm, traffic=chat, overhead=15).invalid


async def test_a_watch_tells_wall_and_processor_time_and_how_late_its_loop_was() -> None:
    before = perf_counter()
    async with Watch() as watch:
        for _ in range(3):
            await asyncio.sleep(0)  # its task begins to wait
        began = perf_counter()
        while perf_counter() - began < 3 * TICK_S:
            pass
        for _ in range(9):
            await asyncio.sleep(0)  # its timer is due, and it comes to its turn
        vitals = watch.vitals()
    took = perf_counter() - before
    assert 3 * TICK_S <= vitals.wall_s <= took and 0 < vitals.cpu_s <= 2 * took
    assert vitals.lags_ms and max(vitals.lags_ms) > 1e3 * TICK_S, "the loop stood still for two ticks more than asked"


def test_the_steady_window_lies_between_the_ramp_and_the_last_start() -> None:
    requests = [request(0.5), request(2.0), request(5.0), request(9.0, turn=2)]
    assert steady_window(1.0, requests) == (1.0, 5.0)
    assert steady_window(0.0, requests) is None and steady_window(6.0, requests) is None
    run = record(*requests, traffic=replace(TRAFFIC, ramp_s=1.0))
    assert [measured.due_s for measured in run.measured] == [2.0, 5.0]
    short = record(*requests, traffic=replace(TRAFFIC, ramp_s=6.0))
    (said,) = unsteady_notes(6.0, [short])
    assert "no conversation began after the ramp of 6 s: figures are of the whole run" in said
    assert unsteady_notes(1.0, [run]) == unsteady_notes(0.0, [short]) == ()


def test_a_closed_loop_and_its_options_are_recorded() -> None:
    pictures = Pictures(1, 8, 64, 32, pool=3)
    workload = Workload("images", 64, 500, input_low=16, pictures=pictures)
    closed = replace(TRAFFIC, workload=workload, concurrency=4, arrivals=Arrivals.CONSTANT, duration_s=3.0)
    sent = traffic_record(closed, 0.5)
    assert (sent.arrivals, sent.input_tokens) == ("closed", 40)
    assert sent.options == {
        "input_range": "16-64",
        "images": "1-8",
        "image_size": "64x32",
        "image_pool": 3,
        "duration_s": 3.0,
    }
    run = record(request(0.0), traffic=closed)
    assert (run.load_kind, run.load, run.workload) == ("concurrency", 4.0, "images")


def test_a_data_set_is_recorded_by_its_own_lengths() -> None:
    turns = (ScriptTurn(10, input_tokens=600), ScriptTurn(30, text="a" * 80))
    data = Dataset("jsonl", tuple(Script((turn,)) for turn in turns))
    sent = traffic_record(replace(TRAFFIC, dataset=data), 0.125)
    assert (sent.workload, sent.scale, sent.input_tokens, sent.output_tokens) == ("jsonl", 1.0, 310, 20)
    assert sent.options == {"dataset": "jsonl", "dataset_fingerprint": data.fingerprint}
    assert data.part(1).fingerprint != data.fingerprint
