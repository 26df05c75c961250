"""The work behind `tercet simulate`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tercet.bench.run import run_record, traffic_record, unsteady_notes
from tercet.cli.measuring import Outcome, command_line
from tercet.cli.publishing import Wanted, finish_bench
from tercet.cli.serving import Hardware, Serving, serving_of
from tercet.core.errors import TercetError, UsageError
from tercet.core.stage import Mode
from tercet.core.topology import Topology
from tercet.launch.source import topology_from, with_settings
from tercet.report.progress import narrator
from tercet.report.terminal import console_for_output
from tercet.results.document import PREDICTED, SIMULATED, ArchitectureRecord, Results
from tercet.results.environment import installed_versions, this_machine
from tercet.results.record import ClientHealth, RunRecord
from tercet.results.slo import Slo
from tercet.results.summary import summarise
from tercet.sim.fleet import FleetSpec
from tercet.sim.result import SimCounters, SimulationResult
from tercet.sim.simulate import PROGRESS_EVERY, WorkerLoss
from tercet.sim.sweep import Case, sweep
from tercet.traffic.spec import LoadKind, TrafficSpec, shorter

NOT_A_CLIENT = ClientHealth(0.0, 0.0, 0.0, 0.0, 0.0, saturated=False)
"""A simulated client is never late."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags said."""

    topology: str
    mode: Mode | None
    model: str | None
    hardware: Hardware
    routing: Mapping[str, Any]
    traffic: TrafficSpec
    load_kind: LoadKind
    loads: tuple[float, ...]
    scale: float
    warmup: int
    lose: tuple[str, ...]
    slo: Slo | None
    percentiles: tuple[float, ...]
    jobs: int
    ray: str
    output: Path


def run_simulations(asked: Asked) -> int:
    """Simulate every load, print and write the results; return the exit code. Raises UsageError."""
    if len(set(asked.loads)) < len(asked.loads):
        raise UsageError(f"--{asked.load_kind} needs one or more different loads, for instance 1,2,4")
    topology = with_settings(topology_from(asked.topology, asked.mode), {"model": asked.model, **asked.routing})
    pictures = asked.traffic.workload.pictures
    size = None if pictures is None else (pictures.width, pictures.height)
    serving = serving_of(asked.topology, topology, asked.hardware, size)
    fleet = serving.fleet
    _require_room(fleet, asked.traffic)
    losses = tuple(parse_loss(text) for text in asked.lose)
    cases = [
        Case(
            fleet,
            asked.traffic.at(asked.load_kind, load),
            f"sim-q{i}",
            asked.warmup,
            token_times=True,
            slo=asked.slo,
            losses=losses,
        )
        for i, load in enumerate(asked.loads)
    ]
    view = narrator(console_for_output(stderr=True))
    view.say(f"{topology.short_form} in mode {fleet.mode}: {'; '.join(serving.summaries)}")
    if topology.idle:
        view.say(topology.idle)
    created = datetime.now(UTC)
    found: dict[int, SimulationResult] = {}
    outcome = Outcome()
    try:
        _simulate(asked, cases, found, view)
    except KeyboardInterrupt:
        outcome = Outcome(interrupted=True)
    except UsageError:
        raise
    except TercetError as error:
        outcome = Outcome(error=error)
    results = _results(asked, topology, serving, cases, found, created, outcome) if found else None
    return finish_bench(outcome, results, Wanted(asked.output, asked.slo, asked.percentiles))


def _simulate(asked: Asked, cases: Sequence[Case], found: dict[int, SimulationResult], view: Any) -> None:
    total = sum(case.traffic.requests for case in cases)
    known = total > 0 and all(case.traffic.num_conversations for case in cases)
    alone = len(cases) == 1 or (asked.jobs == 1 and not asked.ray)
    text = "simulating requests" if known and alone else "simulating loads"
    with view.task(text, total if known and alone else len(cases)) as advance:

        def told(done: int) -> None:
            for _ in range(PROGRESS_EVERY if known and alone else 0):
                advance()

        for index, result in sweep(cases, jobs=asked.jobs, ray=asked.ray, progress=told):
            found[index] = result
            left = result.figures.requests % PROGRESS_EVERY if known and alone else 1
            for _ in range(left):
                advance()


def parse_loss(text: str) -> WorkerLoss:
    """Read `D1@30` or `P0@10+20`. Raises UsageError."""
    match = re.fullmatch(r"([EPDA][0-9]+)@([0-9.]+)(?:\+([0-9.]+))?", text)
    try:
        if match is None:
            raise ValueError
        return WorkerLoss(match[1], float(match[2]), None if match[3] is None else float(match[3]))
    except ValueError:
        raise UsageError(
            f"--lose {text!r}: write a worker and seconds, such as D1@30, or P0@10+20 to come back"
        ) from None


def _require_room(fleet: FleetSpec, traffic: TrafficSpec) -> None:
    room = min(
        pool.caps.scheduler(pool.device.oracle.kv_capacity()).max_len for pool in fleet.pools if pool.letter != "E"
    )
    if traffic.longest > room:
        raise UsageError(
            f"conversations grow to {traffic.longest} tokens, an engine takes {room}: {shorter(traffic)}, or raise "
            "max_model_len or kv_blocks in the topology file"
        )


def _results(
    asked: Asked,
    topology: Topology,
    serving: Serving,
    cases: Sequence[Case],
    found: Mapping[int, SimulationResult],
    created: datetime,
    outcome: Outcome,
) -> Results:
    fleet, model = serving.fleet, serving.devices[topology.workers[0].name].model
    label = f"{fleet.mode} {PREDICTED}"
    runs = tuple(_run(label, fleet, cases[i], i, found[i], created) for i in sorted(found))
    sent = traffic_record(cases[0].traffic, asked.scale).with_slo(asked.slo)
    architecture = ArchitectureRecord(
        label,
        str(fleet.mode),
        topology.short_form,
        {worker.name: (serving.rank_text(worker.name),) * worker.ranks for worker in topology.workers},
        fleet.gpus,
        {**_engine(serving), **{f"stack {name}": value for name, value in asdict(fleet.stack).items()}},
        asdict(fleet.policy),
    )
    return Results(
        kind=SIMULATED,
        created_at=created.isoformat(timespec="seconds"),
        command=command_line(),
        versions=installed_versions(),
        machine=this_machine(),
        model=model,
        seed=asked.traffic.seed,
        traffics=(sent,),
        architectures=(architecture,),
        runs=runs,
        summaries=summarise(runs, {label: fleet.gpus}),
        verdicts=(),
        answers=None,
        notes=(
            *_notes(serving, model),
            *(_inside(cases[i], found[i].counters) for i in sorted(found)),
            *unsteady_notes(asked.traffic.ramp_s, runs),
        ),
        interrupted=bool(outcome.stopped_by),
    )


def _run(
    label: str, fleet: FleetSpec, case: Case, order: int, result: SimulationResult, created: datetime
) -> RunRecord:
    record = run_record(
        case.traffic,
        architecture=label,
        mode=str(fleet.mode),
        block=0,
        order=order,
        salt=case.salt,
        started=created,
        records=result.requests,
        health=NOT_A_CLIENT,
    )
    return replace(record, stages=result.stages)


def _engine(serving: Serving) -> dict[str, Any]:
    """Return what the file says of the engines: of workers that differ, each one's own."""
    told = {name: serving.rank_told(name) for name in serving.devices}
    first, *others = told.values()
    shared = {key: value for key, value in first.items() if all(each[key] == value for each in others)}
    own = {f"{name} {key}": value for name, each in told.items() for key, value in each.items() if key not in shared}
    return {**shared, **own}


def _notes(serving: Serving, model: str) -> list[str]:
    fleet = serving.fleet
    assumed = f"; assumed: {'; '.join(serving.assumed)}" if serving.assumed else ""
    return [
        f"PREDICTED, not measured: {fleet.short_form} with {model} on {fleet.gpus} GPU{'s' * (fleet.gpus != 1)}. Step "
        f"times: {'; '.join(serving.summaries)}{assumed}.",
        f"Stack: {fleet.stack.source}.",
    ]


def _inside(case: Case, counters: SimCounters) -> str:
    load = f"{case.traffic.load:g}{'/s' if case.traffic.load_kind is LoadKind.QPS else ' at once'}"
    parts = [f"caches held {counters.hit_rate:.0%} of the prompts' tokens"]
    if counters.split:
        moved, wait = counters.transferred_bytes / 1e9, counters.transfer_wait_s * 1e3 / counters.split
        parts.append(f"{counters.split} handoffs moved {moved:.1f} GB and waited {wait:.1f} ms each for the link")
    if counters.encoded:
        parts.append(f"{counters.encoded} pictures encoded, {counters.picture_hits + counters.picture_named} found")
    for count, word in (
        (counters.preemptions, "preemptions"),
        (counters.mispredictions, "requests whose worker held less than believed"),
        (counters.retries, "retries after a worker was lost"),
    ):
        if count:
            parts.append(f"{count} {word}")
    return f"At {load}: {', '.join(parts)}."
