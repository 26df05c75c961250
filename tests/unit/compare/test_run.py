"""Whole comparisons against fake deployments over real sockets."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console

from tercet.compare.run import Comparison
from tercet.compare.spec import CompareSpec
from tercet.core.errors import TercetError
from tercet.core.stage import Mode
from tercet.core.topology import EngineSpec, Topology
from tercet.report.progress import PlainNarrator
from tercet.results.file import to_json, validate
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import Workload

from .fakes import Behaviour, FakeDeployment, punctual_drive

DEVICES = ("cpu:0",)


def spec(**changes: Any) -> CompareSpec:
    values: dict[str, Any] = {
        "modes": (Mode.REPLICATED, Mode.PD, Mode.PPD),
        "traffic": TrafficSpec(Workload("t", 32, 4), qps=50.0, num_requests=8, turns=2, seed=1),
        "rates": (50.0,),
        "devices": DEVICES,
        "engine": EngineSpec(dtype="fp32"),
    }
    return CompareSpec(**{**values, **changes})


class Lab:
    """A comparison with fakes, and what they saw and said."""

    def __init__(self, wanted: CompareSpec, behaviour: Behaviour | None = None) -> None:
        self.log: list[str] = []
        self.out = io.StringIO()

        def deploy(topology: Topology) -> FakeDeployment:
            return FakeDeployment(topology, behaviour or Behaviour(), self.log)

        self.comparison = Comparison(
            wanted,
            deploy=deploy,
            drive=punctual_drive,
            narrator=PlainNarrator(Console(file=self.out, width=200)),
            command=("tercet", "compare"),
        )


async def test_every_mode_answers_the_same_conversations_and_the_faster_one_wins() -> None:
    lab = Lab(spec())
    await lab.comparison.run()
    results = lab.comparison.results()
    validate(to_json(results), "results")
    assert [run.mode for run in results.runs] == ["replicated", "pd", "ppd"]
    asked = [{(r.conversation, r.turn, r.prompt_tokens) for r in run.requests} for run in results.runs]
    assert asked[0] == asked[1] == asked[2]
    assert len(asked[0]) == 8
    later = next(verdict for verdict in results.verdicts if verdict.metric == "ttft_later")
    assert later.winner == "ppd"
    assert results.answers is not None
    assert (results.answers.compared, results.answers.equal, results.answers.passed) == (8, 8, True)
    assert results.answers.capital == {"replicated": "Paris.", "pd": "Paris.", "ppd": "Paris."}


async def test_pd_and_ppd_share_a_deployment_and_start_from_nothing() -> None:
    lab = Lab(spec())
    await lab.comparison.run()
    assert lab.log == [
        "start 2A", "mode replicated", "clear", "stop 2A",
        "start 1P1D", "mode pd", "clear", "mode ppd", "clear", "stop 1P1D",
    ]  # fmt: skip
    for run in lab.comparison.runs:
        assert not run.invalid
        assert sum(request.cached_tokens or 0 for request in run.requests if request.turn == 1) == 0
        assert sum(request.cached_tokens or 0 for request in run.requests if request.turn == 2) > 0


async def test_runs_rotate_the_modes_and_salt_the_prompts() -> None:
    lab = Lab(spec(modes=(Mode.PD, Mode.PPD), runs=3))
    await lab.comparison.run()
    runs = lab.comparison.runs
    assert [run.mode for run in runs] == ["pd", "ppd", "ppd", "pd", "pd", "ppd"]
    assert lab.log.count("start 1P1D") == 1
    assert [run.salt for run in runs] == [f"s1-r{number}-q0" for number in (0, 0, 1, 1, 2, 2)]
    assert {verdict.basis for verdict in lab.comparison.results().verdicts} == {"3 runs"}


async def test_unequal_tokens_in_fp32_are_a_fault() -> None:
    lab = Lab(spec(), Behaviour(mistaken_mode="ppd"))
    await lab.comparison.run()
    check = lab.comparison.results().answers
    assert check is not None
    assert check.equal == 0
    assert not check.passed
    assert check.first_difference == "turn 1 of s1-r0-q0-c0 (t at 50, block 1)"


async def test_the_wrong_capital_is_a_fault() -> None:
    lab = Lab(spec(), Behaviour(capital="Rome"))
    await lab.comparison.run()
    check = lab.comparison.results().answers
    assert check is not None
    assert not check.passed


async def test_a_mode_that_cannot_serve_stops_the_comparison_and_keeps_the_others() -> None:
    lab = Lab(spec(), Behaviour(failing_mode="ppd"))
    with pytest.raises(TercetError, match="ppd can't serve"):
        await lab.comparison.run()
    assert [run.mode for run in lab.comparison.results().runs] == ["replicated", "pd"]
    assert lab.log[-1] == "stop 1P1D"


async def test_cancelling_stops_everything_and_keeps_what_was_measured() -> None:
    lab = Lab(spec(), Behaviour(stuck_mode="pd"))
    task = asyncio.create_task(lab.comparison.run())
    while "stuck" not in lab.log:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    results = lab.comparison.results(stopped_by="an interrupt")
    validate(to_json(results), "results")
    assert lab.log[-1] == "stop 1P1D"
    assert results.interrupted
    assert results.notes[-1].startswith("Stopped early by an interrupt")
    assert [run.mode for run in results.runs] == ["replicated"]
    assert results.verdicts == ()


async def test_the_topology_of_every_mode_is_recorded() -> None:
    lab = Lab(spec(topologies={Mode.REPLICATED: "3A", Mode.PD: "1P2D"}))
    records = lab.comparison.results().architectures
    assert [(record.mode, record.short_form) for record in records] == [
        ("replicated", "3A"),
        ("pd", "1P2D"),
        ("ppd", "1P2D"),
    ]
    assert all(record.devices == 1 for record in records)
    assert "api_key_file" not in records[0].router
