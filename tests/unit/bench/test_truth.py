"""The load generator against a server whose own clock says what the figures must be.

The margins are wide, for a machine that lets processes wait: what is looked for are figures that mean something else,
such as a TTFT that ends at an empty chunk (100 ms too short) or a TPOT over pieces instead of tokens (four times too
long). How exact the figures are on a quiet machine, `benchmarks/bench/truth.py` says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import median

import pytest
import uvloop
from benchmarks.bench.truth_lab import errors, truth_server

from tercet.bench.benchmark import Benchmark
from tercet.bench.plan import Plan
from tercet.results.record import RequestRecord
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.prompts import PromptForm
from tercet.traffic.spec import LoadKind, TrafficSpec
from tercet.traffic.workload import Workload

from .stand_in import Silent

TTFT_MARGIN_MS = 2000.0
TPOT_MARGIN_MS = 8.0
TOKENS = 41


def measure(url: str, streams: int, form: PromptForm) -> Sequence[RequestRecord]:
    traffic = TrafficSpec(Workload("t", 16, TOKENS), qps=400.0, num_requests=streams, arrivals=Arrivals.CONSTANT)
    plan = Plan(url, traffic, LoadKind.QPS, (400.0,), os.urandom(4).hex(), form=form)
    benchmark = Benchmark(plan, Silent(), ())
    uvloop.run(benchmark.run())
    return benchmark.runs[0].requests


@pytest.mark.parametrize(
    ("flags", "streams", "form"),
    [
        ((), 32, PromptForm.TOKENS),
        (("--role-chunk", "--keep-alive"), 128, PromptForm.CHAT),
        (("--tokens-per-chunk", "4", "--split-utf8", "--keep-alive"), 32, PromptForm.TOKENS),
    ],
    ids=["plain", "empty role chunk and comments", "four tokens a chunk and split characters"],
)
def test_figures_agree_with_the_servers_own_clock(flags: tuple[str, ...], streams: int, form: PromptForm) -> None:
    with truth_server(*flags) as server:
        for _ in range(3):  # a client that got no core for a second may be wrong once: a figure that means else, always
            server.log()
            records = measure(server.url, streams, form)
            found = errors(records, server.log())
            if median(found.ttft) < TTFT_MARGIN_MS and abs(median(found.tpot)) < TPOT_MARGIN_MS:
                break
    assert [record.error for record in records] == [None] * streams and len(found.ttft) == streams
    assert all(record.ttft_ms > 99 for record in records)
    assert min(found.ttft) > 0  # nothing was read before it was written
    assert median(found.ttft) < TTFT_MARGIN_MS
    assert abs(median(found.tpot)) < TPOT_MARGIN_MS
    sizes = {record.chunk_tokens for record in records}
    assert sizes == ({(1, *(4,) * 10)} if "--split-utf8" in flags else {(1,) * TOKENS})
