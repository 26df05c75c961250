"""Sweeps find the same wherever they run: in this process, in others, on a real Ray cluster of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tercet.core.errors import TercetError, UsageError
from tercet.latency.registry import oracle_for
from tercet.sim.fleet import fleet_of
from tercet.sim.result import SimulationResult
from tercet.sim.simulate import WorkerLoss
from tercet.sim.sweep import Case, _got, sweep
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import workload_from_name

DEVICE = oracle_for("llama-3.1-8b", "h100")
TRAFFIC = TrafficSpec(workload_from_name("W1"), 8.0, 40)
CASES = [Case(fleet_of(form, DEVICE), TRAFFIC) for form in ("2A", "1P1D", "2P1D")]


def ordered(found: Iterator[tuple[int, SimulationResult]]) -> list[SimulationResult]:
    return [result for _, result in sorted(found, key=lambda each: each[0])]


@pytest.mark.slow
@pytest.mark.parametrize("where", [{"jobs": 2}, {"ray": "local"}], ids=["processes", "ray"])
def test_results_do_not_depend_on_where_they_were_made(where: dict[str, object]) -> None:
    here = ordered(sweep(CASES))
    there = ordered(sweep(CASES, **where))  # type: ignore[arg-type]
    assert there == here
    assert len({result.duration_s for result in here}) == 3, "three fleets, three results"


def test_a_case_that_cannot_be_is_refused_through_ray_as_it_is_here() -> None:
    """Ray raises an error of its own, which holds the task's as `cause`."""
    wrong = replace(CASES[0], losses=(WorkerLoss("A9", 1.0),))

    def get(reference: object) -> tuple[int, SimulationResult]:
        try:
            return 0, wrong.run()
        except UsageError as error:
            wrapped = RuntimeError("a task failed")
            wrapped.cause = error  # type: ignore[attr-defined]
            raise wrapped from error

    with pytest.raises(UsageError, match="no worker is called 'A9'"):
        _got(get, "task 0")


def test_a_cluster_that_is_not_there_is_said() -> None:
    with pytest.raises(TercetError, match=r"no Ray cluster answers at 'auto'"):
        ordered(sweep(CASES, ray="auto"))
