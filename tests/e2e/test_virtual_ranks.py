"""Eight prefill and eight decode ranks on virtual GPUs, as examples/eight-plus-eight-ranks serves them, but short."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tercet.bench.drive import drive
from tercet.results.record import RequestRecord
from tercet.traffic.conversation import TokenRange
from tercet.traffic.spec import TrafficSpec, conversations
from tercet.traffic.workload import Workload
from tests.e2e.conftest import call, metric, start_serve, stop_serve, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "eight-plus-eight-ranks" / "topology.yaml"
RANKS, REQUESTS, AT_ONCE, OUT = 8, 96, 32, 16
BALANCE = 1.15


def test_all_ranks_share_the_work_and_nothing_fails(tmp_path: Path) -> None:
    # Steps of 120 ms: sixteen engines are then little work for two cores, and who is busy is the GPUs' doing.
    serve = start_serve(tmp_path, str(EXAMPLE), "--gpu-slowdown", "20", timeout_s=300)
    try:
        # A pair is used once a request has crossed it, and there are 64 of them.
        wait_until(lambda: all(pair["ready"] for pair in call(f"{serve.url}/status").body["pairs"]), 300, "pairs")
        traffic = TrafficSpec(Workload("w", 200, OUT), 1.0, REQUESTS, concurrency=AT_ONCE)
        records: list[RequestRecord] = []
        talks = conversations(traffic, salt="ranks", tokens=TokenRange())
        p, d = (serve.workers(stage)[0]["url"] for stage in ("prefill", "decode"))
        figures = {"vllm:prompt_tokens_total": p, "vllm:generation_tokens_total": d}
        probed = {name: [metric(url, name, rank=str(rank)) for rank in range(RANKS)] for name, url in figures.items()}
        # Wave by wave: clients that never pause send less to the rank whose process happens to get less of a core.
        for first in range(0, REQUESTS, AT_ONCE):
            wave = talks[first : first + AT_ONCE]
            asyncio.run(drive(serve.url, wave, model=serve.model, on_record=records.append, concurrency=AT_ONCE))
        assert [record.error for record in records if not record.ok] == [] and len(records) == REQUESTS
        assert {record.output_tokens for record in records} == {OUT}
        for name, url in figures.items():
            tokens = [metric(url, name, rank=str(rank)) for rank in range(RANKS)]
            tokens = [after - before for after, before in zip(tokens, probed[name], strict=True)]
            assert max(tokens) * RANKS / sum(tokens) <= BALANCE, (name, tokens)
        legs = Counter(leg for record in records for leg in (record.route or "").split(">"))
        assert len(legs) == 2 * RANKS, legs
        assert metric(d, "tercet:virtual_step_lag_seconds_count") > REQUESTS / AT_ONCE * OUT
        serve.wait_idle()
    finally:
        stop_serve(serve)
