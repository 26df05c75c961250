"""The work behind `tercet plan`: flags to a question, the search, and what is written."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

import yaml

from tercet.cli.calibrating import this_machine
from tercet.cli.device_options import Device, device_from, link_bytes_s
from tercet.cli.loads import dataset_from
from tercet.cli.measuring import command_line
from tercet.cli.plan_view import print_plan
from tercet.core.errors import UsageError
from tercet.core.topology import EngineSpec, Topology, mode_from_name
from tercet.latency.known_models import find_model
from tercet.latency.oracle import ChosenOracle
from tercet.launch.topology_file import topology_to_dict
from tercet.plan.question import Question
from tercet.plan.search import Plan, search
from tercet.plan.sensitivity import Effect, sensitivity
from tercet.plan.topology import topology_of
from tercet.report.progress import Narrator, narrator
from tercet.report.terminal import console_for_output
from tercet.results.file import require_writable
from tercet.results.slo import slo_from_flags
from tercet.sim.fleet import EngineCaps
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.spec import LoadKind, TrafficSpec, shorter
from tercet.traffic.workload import Workload

DEFAULT_MODEL, DEFAULT_GPUS = "llama-3.1-8b", 8
MAX_GPUS = 256
DEFAULT_TPS = (1, 2, 4, 8)
ROOM = 1.5
"""The longest sequence of the recommended engines is so many times the traffic's own, rounded up to a power of two."""
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags said."""

    gpus: int | None
    model: str | None
    gpu: str | None
    gpu_spec: str | None
    engine_like: str
    tp: str
    modes: str
    oracle: str
    memory_share: float
    stack: str | None
    link_gb_s: float | None
    from_results: Path | None
    max_num_seqs: int
    max_num_batched_tokens: int
    shape: Workload
    trace: Path | None
    qps: float | None
    concurrency: int | None
    turns: int
    think_s: float
    seed: int
    slo: tuple[str, ...]
    tie_margin: float
    price: float | None
    jobs: int
    ray: str
    output: Path


def run_plan(asked: Asked) -> int:
    """Search, print and write; return the exit code. Raises UsageError."""
    if asked.gpus is not None and not 1 <= asked.gpus <= MAX_GPUS:
        raise UsageError(f"--gpus {asked.gpus} is out of range: give 1 to {MAX_GPUS}")
    require_writable(asked.output)
    traffic, kind, load = _traffic(asked)
    machines = _roomy(_machines(asked), traffic)
    first = next(iter(machines.values()))
    question = Question(
        devices={tp: machine.chosen for tp, machine in machines.items()},
        gpus=asked.gpus or first.gpus or DEFAULT_GPUS,
        stack=first.device.stack,
        caps=_caps(asked, traffic, [machine.chosen for machine in machines.values()]),
        traffic=traffic,
        kind=kind,
        load=load,
        slo=slo_from_flags(asked.slo),
        modes=tuple(mode_from_name(name.strip()) for name in asked.modes.split(",")) if asked.modes else (),
        price=asked.price,
        tie_margin=asked.tie_margin,
        link_bytes_s=link_bytes_s(asked.link_gb_s),
    )
    if question.pictures and not first.chosen.image_tokens:
        raise UsageError("this model takes no pictures: name one that sees, such as llava-1.6-mistral-7b")
    view = narrator(console_for_output(stderr=True))
    view.say(first.chosen.source.summary)
    begun = monotonic()
    try:
        found, effects = _searched(question, view, asked)
    except KeyboardInterrupt:
        view.say("interrupted: a plan needs the whole search, so nothing was written")
        return INTERRUPTED
    created = datetime.now(UTC)
    topology = _topology(asked, first, found)
    took_s = monotonic() - begun
    written = _write(asked, found, effects, topology, created)  # first: whoever reads stdout may leave after a line
    console = console_for_output()
    print_plan(found, effects, first.device, console, took_s=took_s)
    for path, what in written:
        console.print(f"{what}: {path}", markup=False, soft_wrap=True)
    return 0


def _searched(question: Question, view: Narrator, asked: Asked) -> tuple[Plan, tuple[Effect, ...]]:
    found = search(question, view, jobs=asked.jobs, ray=asked.ray)
    return found, sensitivity(found, view, jobs=asked.jobs, ray=asked.ray)


@dataclass(frozen=True, slots=True)
class Machine:
    """A rank's device, and what the file that measured it says: how many there are, and what engine they ran."""

    device: Device
    gpus: int | None = None
    engine: EngineSpec | None = None

    @property
    def chosen(self) -> ChosenOracle:
        """The device's oracle."""
        return self.device.chosen


def _machines(asked: Asked) -> dict[int, Machine]:
    """Return the device of a rank by how many GPUs it has: those that the model fits. Raises UsageError when none."""
    if asked.from_results is not None:
        if asked.gpu or asked.gpu_spec or asked.stack or asked.tp:
            raise UsageError("--from measured a machine: leave out --gpu, --gpu-spec, --stack and --tp")
        return {1: _measured(asked.from_results, asked.model)}
    count = asked.gpus or DEFAULT_GPUS
    named = _tps(asked.tp)
    machines: dict[int, Machine] = {}
    refused: UsageError | None = None
    pictures = asked.shape.pictures
    for tp in named or tuple(tp for tp in DEFAULT_TPS if tp <= count):
        try:
            device = device_from(
                gpu=asked.gpu,
                gpu_spec=asked.gpu_spec,
                model=asked.model or DEFAULT_MODEL,
                engine=asked.engine_like,
                tp=tp,
                oracle=asked.oracle,
                memory_share=asked.memory_share,
                stack=asked.stack,
                picture=None if pictures is None else (pictures.width, pictures.height),
            )
        except UsageError as error:
            if named or "fit" not in str(error):
                raise
            refused = error
            continue
        machines[tp] = Machine(device)
        if device.gpu == "the measured machine":
            break  # it was measured as it is
    if not machines:
        raise refused or UsageError("no GPU was named")
    return machines


def _tps(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")})) if text else ()
    except ValueError:
        raise UsageError(f"--tp {text!r}: write numbers of GPUs, such as 1,2,4") from None


def _measured(path: Path, model: str | None) -> Machine:
    """Fit the machine that a results file measured."""
    from tercet.cli.timings import timings_of

    found = timings_of([path])
    name = model or found.model or ""
    calibration, _ = this_machine(found.samples, name, found.engines, path.name)
    chosen = calibration.chosen()
    assert chosen is not None
    device = Device(chosen, calibration.stack, name, "the measured machine", "tercet", chosen.source.assumptions)
    first = found.engines[0] if found.engines else {}
    engine = EngineSpec(**{field: value for field, value in first.items() if field in _ENGINE_FIELDS})
    return Machine(device, found.devices or None, engine)


_ENGINE_FIELDS = ("engine", "gpu", "dtype", "block_size", "random_weights")


def _traffic(asked: Asked) -> tuple[TrafficSpec, LoadKind, float]:
    """Return the traffic, what a load counts, and the asked load; 0 is none. Raises UsageError."""
    if asked.qps is not None and asked.concurrency is not None:
        raise UsageError("--qps and --concurrency are two kinds of load: give one of them")
    if asked.qps is not None and not 0 < asked.qps < math.inf:
        raise UsageError(f"--qps {asked.qps:g} is out of range: give a number above 0")
    data, turns = dataset_from(asked.trace, asked.turns)
    timed = data is not None and data.timed and asked.concurrency is None
    kind = LoadKind.QPS if asked.concurrency is None else LoadKind.CONCURRENCY
    load = float(asked.concurrency or asked.qps or 0.0)
    rate = asked.qps or 1.0
    if timed and data is not None:
        rate = data.rate()
        load = load or rate
    traffic = TrafficSpec(
        asked.shape,
        qps=rate,
        num_requests=1,
        turns=turns,
        think_s=asked.think_s,
        arrivals=Arrivals.TRACE if timed else Arrivals.POISSON,
        seed=asked.seed,
        concurrency=asked.concurrency or 0,
        dataset=data,
    )
    return traffic, kind, load


def _caps(asked: Asked, traffic: TrafficSpec, devices: Sequence[ChosenOracle]) -> EngineCaps:
    """Return the limits of the engines: room for the traffic's longest sequence, of pictures too."""
    longest = traffic.longest_taken + traffic.most_pictures * max(device.image_tokens for device in devices)
    length = 1024
    while length < ROOM * longest:
        length *= 2
    return EngineCaps(
        max_num_seqs=asked.max_num_seqs, max_num_batched_tokens=asked.max_num_batched_tokens, max_model_len=length
    )


def _roomy(machines: dict[int, Machine], traffic: TrafficSpec) -> dict[int, Machine]:
    """Leave out ranks without room for the longest conversation. Raises UsageError when none is left."""
    room = {tp: machine.chosen.oracle.kv_capacity() for tp, machine in machines.items()}
    left = {tp: machine for tp, machine in machines.items() if room[tp] >= traffic.longest_taken}
    if not left:
        raise UsageError(
            f"conversations grow to {traffic.longest_taken} tokens, and a rank has room for {max(room.values())}: "
            f"{shorter(traffic)}, or take larger GPUs or a higher --tp"
        )
    return left


def _topology(asked: Asked, machine: Machine, found: Plan) -> Topology:
    best = found.ranking.best.architecture
    known = find_model(machine.device.model) if asked.from_results is None else None
    model = machine.device.model if known is None or not known.hub else known.hub
    return topology_of(
        best,
        name=f"plan-{best.form.lower()}",
        model=model,
        engine=machine.engine or EngineSpec(engine=asked.engine_like),
        caps=found.question.caps,
        sees=found.question.pictures,
    )


def _write(
    asked: Asked, found: Plan, effects: Sequence[Effect], topology: Topology, created: datetime
) -> list[tuple[Path, str]]:
    """Write plan, topology and chart under one name; return what lies where."""
    asked.output.mkdir(parents=True, exist_ok=True)
    stem = asked.output / f"tercet-plan-{created:%Y%m%dT%H%M%SZ}"
    paths = [(stem.with_suffix(".yaml"), "Topology, for tercet serve and tercet compare")]
    head = f"# Recommended by: {shlex.join(command_line())}\n"
    paths[0][0].write_text(head + yaml.safe_dump(topology_to_dict(topology), sort_keys=False), encoding="utf-8")
    paths.append((stem.with_suffix(".json"), "Plan"))
    document = plan_to_dict(found, effects, created)
    paths[1][0].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        return paths
    from tercet.report.charts.goodput import goodput_chart
    from tercet.report.charts.render import to_png

    limited = found.question.slo is not None
    curves = {
        each.label: [(o.trial.load, o.goodput if limited else o.served) for o in curve]
        for each, curve in found.curves.items()
    }
    title = "Answers within the limits, 1/s" if limited else "Answers, 1/s"
    chart = goodput_chart(curves, str(found.question.kind), found.load, title)
    paths.append((stem.with_suffix(".png"), "Chart"))
    paths[2][0].write_bytes(to_png(chart))
    return paths


def plan_to_dict(found: Plan, effects: Sequence[Effect], created: datetime) -> dict[str, Any]:
    """Return all of a plan, for programs."""
    question = found.question

    def row(outcome: Any) -> Mapping[str, Any]:
        spreads = {name: getattr(outcome, name) for name in ("ttft_ms", "tpot_ms", "e2e_ms")}
        return {
            "load": outcome.trial.load,
            "seed": outcome.trial.seed,
            "good": outcome.good,
            "goodput": outcome.goodput,
            "served": outcome.served,
            "output_tokens_s": outcome.tokens_s,
            **{name: None if spread is None else asdict(spread) for name, spread in spreads.items()},
        }

    return {
        "kind": "plan",
        "created_at": created.isoformat(timespec="seconds"),
        "command": command_line(),
        "gpus": question.gpus,
        "oracles": {str(tp): device.source.summary for tp, device in question.devices.items()},
        "stack": asdict(question.stack),
        "caps": asdict(question.caps),
        "load_kind": str(question.kind),
        "load": found.load,
        "slo": None if question.slo is None else str(question.slo),
        "tie_margin": question.tie_margin,
        "met": found.met,
        "decided_by": found.ranking.decided,
        "ties": [each.label for each in found.ranking.ties],
        "standings": [
            {
                "architecture": standing.architecture.label,
                "mode": str(standing.architecture.mode),
                "tp": standing.architecture.tp,
                "bears": standing.bears,
                "runs": [row(outcome) for outcome in standing.outcomes],
            }
            for standing in found.ranking.standings
        ],
        "curves": {each.label: [row(outcome) for outcome in curve] for each, curve in found.curves.items()},
        "sensitivity": [
            {"change": e.name, "best": e.best.label, "ahead": e.ratio - 1, "flips": e.flips} for e in effects
        ],
        "considered": found.considered,
        "simulated": found.simulated,
    }
