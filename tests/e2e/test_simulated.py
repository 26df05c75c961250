"""The simulator against the real thing: workers on virtual GPUs behind the router, in real time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from statistics import median

import pytest

from tercet.bench.drive import drive
from tercet.core.stage import Mode
from tercet.latency.oracle import ChosenOracle, OracleSource
from tercet.latency.stack import StackConstants
from tercet.latency.virtual import virtual_oracle
from tercet.results.record import RequestRecord
from tercet.sim.fleet import EngineCaps, fleet_of
from tercet.sim.simulate import simulate
from tercet.traffic.conversation import TokenRange
from tercet.traffic.spec import TrafficSpec, conversations
from tercet.traffic.workload import Workload
from tests.e2e.conftest import Serve, start_serve, stop_serve

pytestmark = pytest.mark.slow

SLOWDOWN = 100.0
"""Steps of 0.14 s: what a busy machine adds is small beside them."""
TOKENS = TokenRange.for_vocabulary(320)


@pytest.fixture
def virtual(tmp_path: Path) -> Iterator[Serve]:
    engine = ("--engine", "virtual", "--gpu", "h100", "--gpu-slowdown", f"{SLOWDOWN:g}", "--kv-blocks", "4000")
    serve = start_serve(tmp_path, "1P1D", "--mode", "ppd", "--random-weights", "tiny", "--dtype", "fp32", *engine)
    yield serve
    stop_serve(serve)


def measured(serve: Serve, traffic: TrafficSpec, salt: str) -> list[RequestRecord]:
    records: list[RequestRecord] = []
    sent = drive(
        serve.url,
        conversations(traffic, salt=salt, tokens=TOKENS),
        model=serve.model,
        on_record=records.append,
        concurrency=traffic.concurrency or None,
    )
    asyncio.run(sent)
    assert all(record.ok for record in records), [record.error for record in records]
    return records


def test_predictions_agree_with_virtual_gpus_in_real_time(virtual: Serve) -> None:
    config = json.loads((files("tercet.engine.models") / "shapes" / "tiny.json").read_text())
    oracle = virtual_oracle("h100", config, "fp32").slowed(SLOWDOWN)
    device = ChosenOracle(oracle, OracleSource("linear", "a virtual GPU"), link_bytes_s=5e9)
    caps = EngineCaps(max_num_seqs=64, max_num_batched_tokens=512, max_model_len=4096, kv_blocks=4000)
    fleet = fleet_of("1P1D", device, mode=Mode.PPD, caps=caps)
    # What HTTP and processes add is a constant of the stack, from requests that meet no other.
    alone = TrafficSpec(Workload("w", 160, 4), 1.0, 4, concurrency=1)
    real = median(record.ttft_ms for record in measured(virtual, alone, "alone")[1:])
    added = real - median(record.ttft_ms for record in simulate(fleet, alone, salt="alone").requests[1:])
    fleet = replace(fleet, stack=StackConstants(per_request_ms=max(added, 0.0)))
    traffic = TrafficSpec(Workload("w", 160, 12), 3.0, 60, 2, seed=5)
    real_records = measured(virtual, traffic, "loaded")
    predicted = simulate(fleet, traffic, salt="loaded").requests
    for metric in ("ttft_ms", "e2e_ms"):
        wanted, found = (median(getattr(each, metric) for each in side) for side in (real_records, predicted))
        print(metric, wanted, found, added)
        assert found == pytest.approx(wanted, rel=0.03), metric
    routes = [sorted((r.conversation, r.turn, r.route) for r in side) for side in (real_records, predicted)]
    assert routes[0] == routes[1]
