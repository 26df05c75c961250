"""Measured traffic against a server that already runs."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console

from tercet.compare.single import Single
from tercet.core.errors import TercetError, UsageError
from tercet.core.stage import Mode
from tercet.core.topology import Topology, parse_short_form
from tercet.report.progress import PlainNarrator
from tercet.results.file import to_json, validate
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import Workload

from .fakes import Behaviour, FakeDeployment, punctual_drive

TRAFFIC = TrafficSpec(Workload("t", 32, 4), qps=50.0, num_requests=6, turns=2, seed=1)


def server(behaviour: Behaviour | None = None) -> FakeDeployment:
    return FakeDeployment(Topology("t", "m", Mode.PPD, parse_short_form("1P1D")), behaviour or Behaviour(), [])


def single(url: str, **changes: Any) -> Single:
    values: dict[str, Any] = {
        "scale": 1.0,
        "model": "",
        "salt": "",
        "drive": punctual_drive,
        "narrator": PlainNarrator(Console(file=io.StringIO())),
        "command": ("tercet", "bench"),
    }
    return Single(url, TRAFFIC, (40.0, 50.0), **{**values, **changes})


async def test_every_rate_is_measured_and_recorded() -> None:
    fake = server()
    await fake.start()
    bench = single(fake.url)
    await bench.run()
    await fake.stop()
    results = bench.results()
    validate(to_json(results), "results")
    assert [(run.mode, run.load, len(run.finished)) for run in results.runs] == [("ppd", 40.0, 6), ("ppd", 50.0, 6)]
    assert (results.kind, results.model) == ("bench", "fake")
    assert not any(run.invalid for run in results.runs)


async def test_two_benchmarks_never_share_prompts_unless_asked() -> None:
    fake = server()
    await fake.start()
    runs = [single(fake.url), single(fake.url), single(fake.url, salt="a"), single(fake.url, salt="a")]
    for run in runs:
        await run.run()
    await fake.stop()
    asked = [{request.conversation for request in run.runs[0].requests} for run in runs]
    assert asked[0].isdisjoint(asked[1])
    assert asked[2] == asked[3]
    assert "first turns found" in runs[3].runs[0].invalid_reasons[-1]


async def test_cutting_a_run_short_keeps_its_finished_requests() -> None:
    fake = server(Behaviour(stuck_mode="ppd", stuck_after=3))
    await fake.start()
    bench = single(fake.url)
    task = asyncio.create_task(bench.run())
    while "stuck" not in fake.log:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fake.stop()
    (run,) = bench.results(stopped_by="an interrupt").runs
    assert not run.complete
    assert 1 <= len(run.finished) <= 3


async def test_no_server_is_said_plainly() -> None:
    with pytest.raises(TercetError, match="cannot connect"):
        await single("http://127.0.0.1:9").run()
    with pytest.raises(UsageError, match="write for instance http://"):
        await single("nowhere").run()


async def test_conversations_that_outgrow_the_model_are_refused_before_any_is_sent() -> None:
    fake = server(Behaviour(max_model_len=71))
    await fake.start()
    with pytest.raises(UsageError, match="grow to 72 tokens, fake takes 71"):
        await single(fake.url).run()
    await fake.stop()
