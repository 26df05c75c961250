from __future__ import annotations

import gc
import weakref
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context

import pytest

from tercet.core.errors import UsageError
from tercet.core.route import Route
from tercet.core.stage import Mode
from tercet.latency.linear import LinearOracle
from tercet.latency.oracle import ChosenOracle, OracleSource
from tercet.latency.stack import StackConstants
from tercet.results.serving import peak_concurrency
from tercet.results.slo import Slo
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.modes import route
from tercet.routing.policy import Policy
from tercet.routing.refusal import Refusal
from tercet.sim.fleet import EngineCaps, FleetSpec, fleet_of
from tercet.sim.network import Places
from tercet.sim.simulate import WorkerLoss, simulate
from tercet.traffic.pictures import Pictures
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import Workload, workload_from_name

SHORT = Workload("short", 160, 40)
DEVICE = ChosenOracle(
    LinearOracle(base_ms=10.0, token_ms=0.1, context_ms=0.0, kv_token_bytes=1000, kv_tokens=1 << 20, image_ms=50.0),
    OracleSource("linear", "made up"),
    link_bytes_s=1e6,
    image_tokens=64,
)
BLIND = replace(DEVICE, image_tokens=0)


def one_by_one(workload: Workload = SHORT, requests: int = 4, turns: int = 1) -> TrafficSpec:
    return TrafficSpec(workload, 1.0, requests, turns, concurrency=1)


def test_a_lone_request_costs_its_prompt_and_its_steps() -> None:
    fleet = fleet_of("1A", BLIND, stack=StackConstants(per_request_ms=3.0, idle_ms=2.0))
    result = simulate(fleet, one_by_one())
    assert len(result.requests) == 4
    for record in result.requests:
        assert record.ttft_ms == pytest.approx(3 + 2 + 10 + 16)
        assert record.tpot_ms == pytest.approx(10)
        assert (record.prompt_tokens, record.output_tokens, record.route) == (160, 40, "A0")


def test_a_handoff_costs_its_bytes_and_its_hop() -> None:
    fleet = fleet_of("1P1D", BLIND, stack=StackConstants(hop_ms=5.0))
    record = simulate(fleet, one_by_one()).requests[0]
    assert record.ttft_ms == pytest.approx(10 + 16 + 5 + 160)
    assert record.external_tokens == 160
    assert record.route == "P0>D0"
    assert record.phases_ms["handoff"] == pytest.approx(165)


def test_taking_kv_in_stops_the_receiver_for_longer_the_more_comes() -> None:
    stack = StackConstants(hop_ms=25.0, hop_stall_ms=5.0, hop_token_ms=0.25)
    fleet = fleet_of("1P1D", BLIND, stack=stack)
    alone = simulate(fleet, one_by_one()).requests[0]
    assert alone.ttft_ms == pytest.approx(10 + 16 + 25 + 160 + 0.25 * 160)
    assert alone.tpot_ms == pytest.approx(10)
    first, second = simulate(fleet, TrafficSpec(SHORT, 1.0, 2, concurrency=2, seed=1)).requests
    # The later one's KV comes while the earlier one decodes, which waits for its 5 + 160 / 4 ms.
    assert first.tpot_ms is not None and second.tpot_ms is not None
    assert sorted((first.tpot_ms, second.tpot_ms)) == pytest.approx([10, 10 + 45 / 39])


def test_transfers_wait_for_the_link() -> None:
    fleet = fleet_of("1P1D", BLIND)
    together = TrafficSpec(SHORT, 1.0, 4, concurrency=4)
    result = simulate(fleet, together)
    # Four prompts in one step, then 160 ms of link each, one after the other.
    firsts = sorted(record.ttft_ms for record in result.requests)
    assert [b - a for a, b in pairwise(firsts)] == pytest.approx([160, 160, 160], abs=11)
    assert result.counters.transferred_bytes == 4 * 160_000
    assert result.counters.transfer_wait_s > 0.4


def test_leaps_change_nothing() -> None:
    fleet = fleet_of("2A", BLIND, stack=StackConstants(per_request_ms=1.0))
    traffic = TrafficSpec(SHORT, 20.0, 200, 2, seed=3)
    leaping = simulate(fleet, traffic, token_times=True)
    stepping = simulate(fleet, traffic, token_times=True, watch=lambda address: lambda now, batch: None)
    assert leaping.counters.leapt > leaping.counters.steps / 10
    assert stepping.counters.leapt == 0
    assert leaping.counters.steps == stepping.counters.steps
    for a, b in zip(leaping.requests, stepping.requests, strict=True):
        assert a.chunk_s == pytest.approx(b.chunk_s)
        assert len(a.chunk_s) == 40
        assert (a.route, a.cached_tokens) == (b.route, b.cached_tokens)


def test_a_prompt_that_a_step_leaves_one_token_of_begins_its_answer_with_the_next() -> None:
    fleet = fleet_of("1A", BLIND, caps=EngineCaps(max_num_batched_tokens=159))
    for record in simulate(fleet, one_by_one()).requests:
        assert record.ttft_ms == pytest.approx(10 + 15.9 + 10)
        assert record.tpot_ms == pytest.approx(10)


def _what_requests_leave() -> tuple[list[int], bool]:
    """Return what the collector finds each time that it is asked during a run, and whether it rested until then."""
    fleet = fleet_of("2P2D", BLIND, mode=Mode.PPD)
    left: list[int] = []
    resting: list[bool] = []

    def progress(done: int) -> None:
        resting.append(not gc.isenabled())
        left.append(gc.collect())

    gc.collect()
    simulate(fleet, TrafficSpec(SHORT, 4.0, 300, 2), records=False, progress=progress)
    return left, all(resting) and gc.isenabled()


def test_requests_leave_nothing_for_the_collector_which_rests_meanwhile() -> None:
    # In a process of its own: here it would find what other tests left.
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        left, rested = alone.submit(_what_requests_leave).result(120)
    assert rested
    assert len(left) == 6 and sum(left[1:-1]) == 0  # the last is after the end of the traffic


@pytest.mark.parametrize("concurrency", [0, 4])
def test_a_fleet_is_gone_when_its_simulation_is_over(concurrency: int) -> None:
    seen: list[weakref.ref[FleetState]] = []

    def decide(
        mode: Mode, facts: RequestFacts, fleet: FleetState, policy: Policy, avoid: Collection[str]
    ) -> Route | Refusal:
        seen.append(weakref.ref(fleet))
        return route(mode, facts, fleet, policy, avoid)

    traffic = TrafficSpec(SHORT, 4.0, 8, 2, concurrency=concurrency)
    simulate(fleet_of("1P1D", BLIND), traffic, losses=[WorkerLoss("D0", 0.5, 0.1)], decide=decide)
    assert seen and seen[0]() is None
    gc.disable()
    try:
        simulate(fleet_of("1A", BLIND), one_by_one())
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("mode", "threshold", "route", "split"),
    [(Mode.PD, 512, "P0>D0", 4), (Mode.PPD, 512, "D0", 2), (Mode.PPD, 100, "P0>D0", 4)],
)
def test_later_turns_go_as_the_mode_says(mode: Mode, threshold: int, route: str, split: int) -> None:
    fleet = fleet_of("1P1D", BLIND, mode=mode, policy=Policy(ppd_threshold=threshold))
    result = simulate(fleet, one_by_one(turns=2))
    later = [record for record in result.requests if record.turn == 2]
    assert {record.route for record in later} == {route}
    assert all((record.cached_tokens or 0) >= 160 for record in later)
    assert all(record.prompt_tokens == 160 + 40 + 160 for record in later)
    assert result.counters.split == split


def test_a_prefix_that_was_evicted_is_a_misprediction_and_costs_its_prompt() -> None:
    # Room for two conversations; three take turns, so each finds its first turn gone, which the router can't know.
    caps = EngineCaps(kv_blocks=40)
    fleet = fleet_of("1A", BLIND, mode=Mode.REPLICATED, caps=caps)
    workload = Workload("w", 192, 32)
    result = simulate(fleet, TrafficSpec(workload, 1.0, 12, 2, concurrency=3))
    assert result.figures.ok == 12
    assert result.counters.mispredictions > 0
    roomy = simulate(fleet_of("1A", BLIND, mode=Mode.REPLICATED), TrafficSpec(workload, 1.0, 12, 2, concurrency=3))
    assert roomy.counters.mispredictions == 0
    assert roomy.counters.prefix_hits > result.counters.prefix_hits


def test_shared_prefixes_are_found() -> None:
    workload = Workload("w", 320, 8, prefix_tokens=160)
    result = simulate(fleet_of("1A", BLIND), one_by_one(workload))
    assert [record.cached_tokens for record in result.requests] == [0, 160, 160, 160]


SEEING = Workload("pictures", 32, 8, pictures=Pictures(2, 2))


def test_pictures_are_prepared_side_by_side_and_encoded() -> None:
    stack = StackConstants(image_host_ms=100.0, image_host_workers=1, embedding_hop_ms=7.0)
    inline = simulate(fleet_of("1A", DEVICE, stack=stack), one_by_one(SEEING)).requests[0]
    # Two pictures on one host worker, the last one's encoding, and 2 x 64 + 32 tokens.
    assert inline.ttft_ms == pytest.approx(200 + 50 + 10 + 16)
    assert inline.vision_tokens == 128
    wide = simulate(fleet_of("1A", DEVICE, stack=stack.but(image_host_workers=2)), one_by_one(SEEING)).requests[0]
    assert wide.ttft_ms == pytest.approx(100 + 50 + 50 + 10 + 16)
    apart = simulate(fleet_of("2E1A", DEVICE, stack=stack), one_by_one(SEEING)).requests[0]
    assert apart.route == "E0+E1>A0"
    assert apart.ttft_ms == pytest.approx(100 + 50 + 7 + 10 + 16)


def test_an_encoder_keeps_pictures_that_come_again() -> None:
    workload = replace(SEEING, pictures=Pictures(1, 1, pool=2))
    stack = StackConstants(image_host_ms=100.0)
    result = simulate(fleet_of("1E1P1D", DEVICE, stack=stack), one_by_one(workload, requests=8))
    assert result.counters.encoded == 2
    again = simulate(
        fleet_of("1E1P1D", DEVICE, stack=stack, caps=EngineCaps(embedding_tokens=0)), one_by_one(workload, requests=8)
    )
    assert again.counters.encoded == 8


def test_pictures_need_a_model_that_sees() -> None:
    with pytest.raises(UsageError, match="name a model that does"):
        simulate(fleet_of("1A", BLIND), one_by_one(SEEING))


def test_data_parallel_ranks_share_the_work() -> None:
    specs = fleet_of("1A", BLIND).pools[0]
    fleet = FleetSpec((replace(specs, ranks=4),), Mode.AGGREGATED)
    result = simulate(fleet, TrafficSpec(SHORT, 1.0, 8, concurrency=8))
    assert sorted(record.route or "" for record in result.requests) == sorted(["A0", "A1", "A2", "A3"] * 2)
    assert fleet.gpus == 4


def test_caps_make_requests_wait() -> None:
    free = simulate(fleet_of("1A", BLIND), TrafficSpec(SHORT, 1.0, 8, concurrency=8))
    capped = simulate(fleet_of("1A", BLIND, caps=EngineCaps(max_num_seqs=2)), TrafficSpec(SHORT, 1.0, 8, concurrency=8))
    assert capped.figures.ttft_ms.max > 3 * 390 > free.figures.ttft_ms.max


def test_a_clients_pool_makes_requests_wait_too() -> None:
    fleet = fleet_of("1A", BLIND, stack=StackConstants(connections=1))
    result = simulate(fleet, TrafficSpec(SHORT, 1.0, 4, concurrency=4))
    assert result.figures.ttft_ms.max == pytest.approx(3 * (26 + 390) + 26)


def test_a_closed_loop_comes_in_waves() -> None:
    result = simulate(fleet_of("1A", BLIND), TrafficSpec(SHORT, 1.0, 10, concurrency=4))
    assert peak_concurrency(result.requests) == 4
    starts = [record.sent_s for record in result.requests]
    assert starts[:4] == [0.0] * 4
    assert starts[4] > 0.4
    assert starts[8] > 2 * 0.4
    assert len(starts) == 10


def test_a_closed_loops_seats_open_during_its_ramp() -> None:
    result = simulate(fleet_of("1A", BLIND), TrafficSpec(SHORT, 1.0, 60, concurrency=4, ramp_s=8.0))
    starts = [record.sent_s for record in result.requests]
    under_way = [sum(r.sent_s <= at < r.done_s for r in result.requests) for at in (1.9, 3.9, 5.9, 7.9)]
    assert under_way == [1, 2, 3, 4] and {0.0, 2.0, 4.0, 6.0} <= set(starts)


def test_a_warm_up_is_not_measured_and_leaves_its_caches() -> None:
    workload = Workload("w", 320, 8, prefix_tokens=160)
    cold = simulate(fleet_of("1A", BLIND), one_by_one(workload))
    warm = simulate(fleet_of("1A", BLIND), one_by_one(workload), warmup=16)
    assert len(warm.requests) == len(cold.requests) == 4
    assert warm.requests[0].sent_s == 0
    assert warm.counters.steps > cold.counters.steps


def test_a_lost_worker_fails_streams_and_has_the_others_tried_again() -> None:
    fleet = fleet_of("2A", BLIND)
    traffic = TrafficSpec(SHORT, 1.0, 12, concurrency=4)
    result = simulate(fleet, traffic, losses=[WorkerLoss("A0", 0.2, 0.5)])
    kinds = [record.failure for record in result.requests]
    assert kinds.count("closed") == 2
    assert result.figures.ok == 10
    after = [record.route for record in result.requests if record.ok and record.done_s > 1.2]
    assert "A0" in after
    early = simulate(fleet, traffic, losses=[WorkerLoss("A0", 0.005)])
    assert early.figures.ok == 12
    assert early.counters.retries == 2
    assert {record.route for record in early.requests} == {"A1"}


def test_d_computes_again_what_a_lost_p_held() -> None:
    fleet = fleet_of("1P1D", BLIND)
    result = simulate(fleet, one_by_one(requests=1), losses=[WorkerLoss("P0", 0.1)])
    record = result.requests[0]
    assert record.ok
    assert record.external_tokens == 0


def test_without_a_worker_requests_are_refused() -> None:
    result = simulate(fleet_of("1A", BLIND), one_by_one(requests=3), losses=[WorkerLoss("A0", 0.0)])
    assert [record.failure for record in result.requests] == ["http_5xx"] * 3
    with pytest.raises(UsageError, match="no worker is called 'P7'"):
        simulate(fleet_of("1A", BLIND), one_by_one(), losses=[WorkerLoss("P7", 0.0)])


def test_figures_without_records_are_the_same() -> None:
    fleet = fleet_of("1P1D", BLIND, stack=StackConstants(per_request_ms=1.0))
    traffic = TrafficSpec(SHORT, 4.0, 100, seed=5)
    slo = Slo(ttft_ms=300.0)
    kept = simulate(fleet, traffic, slo=slo)
    light = simulate(fleet, traffic, records=False, slo=slo)
    assert light.requests == ()
    assert light.figures.good == sum(slo.met_by(record) for record in kept.requests)
    ttfts = sorted(record.ttft_ms for record in kept.requests)
    found = light.figures.ttft_ms.spread()
    assert found is not None
    assert found.p50 == pytest.approx(ttfts[50], rel=0.02)
    assert found.mean == pytest.approx(sum(ttfts) / 100)


def test_the_same_seed_gives_the_same_run() -> None:
    fleet = fleet_of("2P2D", BLIND, mode=Mode.PPD)
    traffic = TrafficSpec(workload_from_name("W1").scaled(0.25), 5.0, 40, 2, seed=9)
    assert simulate(fleet, traffic).requests == simulate(fleet, traffic).requests


def test_prompts_that_never_fit_fail() -> None:
    result = simulate(fleet_of("1A", BLIND, caps=EngineCaps(max_model_len=100)), one_by_one(turns=2))
    assert [record.failure for record in result.requests] == ["http_4xx", "not_sent"] * 2


def test_fleets_that_cannot_run_are_refused() -> None:
    with pytest.raises(UsageError, match="needs a prefill worker"):
        fleet_of("2A", BLIND, mode=Mode.PD)
    with pytest.raises(UsageError, match="moves nothing"):
        fleet_of("1P1D", BLIND, link_bytes_s=0.0)


def test_what_happens_after_the_last_answer_makes_nobody_less_busy() -> None:
    fleet = fleet_of("2A", BLIND)
    quiet = simulate(fleet, one_by_one())
    after = simulate(fleet, one_by_one(), losses=[WorkerLoss("A1", 1000.0, 1000.0)])
    assert after.duration_s == quiet.duration_s
    assert set(after.stages) == set(quiet.stages)
    assert sum(stage.busy_fraction for stage in quiet.stages) == pytest.approx(1.0), "one at a time, without a pause"


def test_a_decode_ranks_handoffs_are_bounded_first_come_first_served() -> None:
    places = Places(2)
    entered: list[object] = []
    for number in range(5):
        places.enter("D0", partial(entered.append, number))
    places.enter("D1", partial(entered.append, "other"))
    assert entered == [0, 1, "other"]
    places.leave("D0")
    assert entered == [0, 1, "other", 2]
    for _ in range(4):
        places.leave("D0")
    assert entered == [0, 1, "other", 2, 3, 4]
    places.enter("D0", partial(entered.append, "last"))
    assert entered[-1] == "last"


def test_a_histogram_counts_each_value_once() -> None:
    spread = simulate(fleet_of("1A", BLIND), one_by_one()).figures.ttft_ms.spread()
    assert spread is not None and spread.count == 4
    assert (spread.mean, spread.max) == pytest.approx((26, 26)) and spread.p50 == pytest.approx(26, rel=0.005)
