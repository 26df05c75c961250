"""A machine that behaves as the model says is found from its lowest load, and its other loads are predicted."""

from __future__ import annotations

from functools import partial

from benchmarks.planner_accuracy.client import Client, poisson
from benchmarks.planner_accuracy.engine import Clock, Turn
from benchmarks.planner_accuracy.fleet import Fleet
from benchmarks.planner_accuracy.machine import judge

from tercet.latency.measured import MeasuredOracle
from tercet.latency.oracle import ChosenOracle, OracleSource
from tercet.latency.stack import StackConstants
from tercet.results.document import ArchitectureRecord, Machine, Results
from tercet.results.record import ClientHealth, RequestRecord, RunRecord

ORACLE = MeasuredOracle(15.0, 1.2, 2e-4, 1.5, 4e-3, 0.0, 23040, 11_000)
STACK = StackConstants(per_request_ms=8.0, hop_ms=12.0, source="a test")
CHOSEN = ChosenOracle(ORACLE, OracleSource("measured", "a test"), 5e9)
CONFIGS = {"replicated": "2R", "pd": "1P1D", "ppd": "1P1pD"}


def run(mode: str, load: float, order: int) -> RunRecord:
    clock = Clock()
    fleet = Fleet(clock, CONFIGS[mode], CHOSEN, STACK, seed=2, max_num_batched_tokens=512, balanced=True)
    client, turns = Client(clock, fleet), list[Turn]()

    def send(number: int) -> None:
        first = Turn(number, 60 + 97 * (number % 9), 20 + number % 7)
        second = Turn(number, first.length + first.output + 150, 24, turn=2)
        turns.extend((first, second))
        client.send(first, partial(client.send, second))

    poisson(clock, send, load, 40.0, 60, 3)
    clock.run()
    routes = {"replicated": ("A{}", "A{}"), "pd": ("P0>D0", "P0>D0"), "ppd": ("P0>D0", "D0")}[mode]
    return RunRecord(
        mode, mode, "W1", "qps", load, 0, order, "s", "2026-01-01T00:00:00+00:00", clock.now,
        ClientHealth(0, 0, 0, 0, 0, False),
        tuple(record(turn, routes[turn.turn - 1].format(_replica(fleet, turn)), mode) for turn in turns),
    )  # fmt: skip


def _replica(fleet: Fleet, turn: Turn) -> int:
    engine = fleet.place_of(turn)
    return next((i for i, each in enumerate(fleet.replicas) if each is engine), 0)


def record(turn: Turn, route: str, mode: str) -> RequestRecord:
    steps = turn.output - 1
    chunks = tuple(turn.first + (turn.done - turn.first) * step / steps for step in range(turn.output))
    cached = (turn.length - 150) // 16 * 16 if turn.turn == 2 and mode != "pd" else 0
    return RequestRecord(
        f"c{turn.number}", turn.turn, turn.sent, turn.sent, turn.done, chunks, turn.length, turn.output, turn.output,
        cached, route=route,
    )  # fmt: skip


def test_the_other_loads_are_predicted() -> None:
    runs = [run(mode, load, i) for i, (mode, load) in enumerate((m, q) for m in CONFIGS for q in (0.3, 1.0, 1.8))]
    engine = {"engine": "tercet", "max_num_seqs": 64, "max_num_batched_tokens": 512, "kv_blocks": 687, "block_size": 16}
    architectures = tuple(
        ArchitectureRecord(mode, mode, {"2R": "2A", "1P1pD": "1P1D"}.get(config, config), {}, 2, engine, {})
        for mode, config in CONFIGS.items()
    )
    machine = Machine("c", 2, 2, 1, "p")
    results = Results(
        "compare", "2026-01-01T00:00:00+00:00", (), {}, machine, "smollm2-135m", 0, (), architectures, tuple(runs),
        (), (), None,
    )  # fmt: skip
    judged = judge(results)
    assert len(judged.points) == 6
    for metric, limit in (("ttft", 0.12), ("tpot", 0.06), ("e2e", 0.08), ("throughput", 0.05)):
        assert judged.median(metric) < limit, metric
    assert judged.right_share() >= 0.9
