"""A machine that behaves as the model says is found from its lowest load, and its other loads are predicted."""

from __future__ import annotations

import pytest
from benchmarks.planner_accuracy.client import conversation, open_loop, poisson
from benchmarks.planner_accuracy.machine import calibrated, judge

from tercet.core.stage import Mode
from tercet.latency.measured import MeasuredOracle
from tercet.latency.oracle import ChosenOracle, OracleSource
from tercet.latency.stack import StackConstants
from tercet.results.document import ArchitectureRecord, Machine, Results
from tercet.results.record import ClientHealth, RunRecord
from tercet.sim.fleet import EngineCaps, fleet_of
from tercet.sim.simulate import simulate

ORACLE = MeasuredOracle(15.0, 1.2, 2e-4, 1.5, 4e-3, 0.0, 23040, 11_000)
STACK = StackConstants(per_request_ms=8.0, hop_ms=12.0, source="a test")
CHOSEN = ChosenOracle(ORACLE, OracleSource("measured", "a test"), 5e9)
FORMS = {"replicated": "2A", "pd": "1P1D", "ppd": "1P1D"}
SECONDS, MOST = 40.0, 60


def run(mode: str, load: float, order: int, neighbour: float) -> RunRecord:
    stack = STACK.but(neighbour=neighbour)
    fleet = fleet_of(FORMS[mode], CHOSEN, mode=Mode(mode), stack=stack, caps=EngineCaps(64, 512))
    talks = [
        conversation(number, [(60 + 97 * (number % 9), 20 + number % 7), (150, 24)], at)
        for number, at in enumerate(poisson(load, SECONDS, MOST, 3))
    ]
    found = simulate(fleet, open_loop(), conversations=talks, token_times=True)
    return RunRecord(
        mode, mode, "W1", "qps", load, 0, order, "s", "2026-01-01T00:00:00+00:00", found.duration_s,
        ClientHealth(0, 0, 0, 0, 0, False), found.requests,
    )  # fmt: skip


@pytest.mark.parametrize("neighbour", [0.0, 0.4])
def test_the_other_loads_are_predicted(neighbour: float) -> None:
    """By what the lowest load tells: also of workers that slow each other, as those do that share memory."""
    runs = [
        run(mode, load, i, neighbour) for i, (mode, load) in enumerate((m, q) for m in FORMS for q in (0.3, 1.0, 1.8))
    ]
    engine = {"engine": "tercet", "max_num_seqs": 64, "max_num_batched_tokens": 512, "kv_blocks": 687, "block_size": 16}
    architectures = tuple(ArchitectureRecord(mode, mode, form, {}, 2, engine, {}) for mode, form in FORMS.items())
    machine = Machine("c", 2, 2, 1, "p")
    results = Results(
        "compare", "2026-01-01T00:00:00+00:00", (), {}, machine, "smollm2-135m", 0, (), architectures, tuple(runs),
        (), (), None,
    )  # fmt: skip
    calibration, _ = calibrated(results)
    assert calibration.stack.neighbour == pytest.approx(neighbour, abs=0.11)
    judged = judge(results)
    assert len(judged.points) == 6
    for metric, limit in (("ttft", 0.12), ("tpot", 0.06), ("e2e", 0.08), ("throughput", 0.05)):
        assert judged.median(metric) < limit, metric
    assert judged.right_share() >= 0.9
