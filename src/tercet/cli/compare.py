"""`tercet compare`: the same conversations through every mode on the same devices, and a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli import engine_options as engine_flags
from tercet.cli import traffic_options as flags
from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import EngineSpec, RouterSpec, mode_from_name

if TYPE_CHECKING:
    from tercet.compare.spec import CompareSpec

DEFAULT_MODEL = "smollm2-135m"

PRESETS: dict[str, dict[str, object]] = {
    "demo": {
        "modes": "replicated,pd,ppd",
        "workload": "64/64",
        "qps": "0.5",
        "turns": 3,
        "num_requests": 24,
        "scale": 1.0,
        "seed": 1,
    },
}
"""Named sets of flags; a flag given beside `--preset` wins."""


def _apply_preset(context: typer.Context, name: str) -> str:
    if name and name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}: choose {', '.join(PRESETS)}")
    context.default_map = {**(context.default_map or {}), **PRESETS.get(name, {})}
    return name


def compare(
    modes: Annotated[
        str, typer.Option(metavar="MODE[,MODE...]", help="aggregated, replicated, pd, ppd; two or more give a verdict.")
    ] = "replicated,pd,ppd",
    workload: flags.Workload = "W1",
    qps: flags.Qps = "0.5",
    turns: flags.Turns = 2,
    num_requests: flags.NumRequests = 16,
    scale: flags.Scale = 0.125,
    seed: flags.Seed = 0,
    runs: Annotated[
        int,
        typer.Option(help="Repeat everything; 3 or more make the run, not the conversation, the unit of statistics."),
    ] = 1,
    think: flags.Think = 0.0,
    arrivals: flags.ArrivalPattern = "poisson",
    model: engine_flags.Model = None,
    random_weights: engine_flags.RandomWeights = None,
    cache_dir: engine_flags.CacheDir = None,
    engine: engine_flags.Engine = None,
    gpu: engine_flags.Gpu = None,
    dtype: engine_flags.Dtype = None,
    transport: engine_flags.Transport = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt plus answer.  [default: the conversations' need, at least 4096]")
    ] = None,
    devices: Annotated[
        str, typer.Option(metavar="DEVICE[,DEVICE...]", help="What every topology runs on, such as cpu:0,cpu:1.")
    ] = "",
    topologies: Annotated[
        str,
        typer.Option(
            metavar="MODE=FORM[,...]", help="Workers of a mode, such as replicated=4A,pd=1P3D. Default 2A, 1P1D."
        ),
    ] = "",
    allow_unequal: Annotated[
        bool,
        typer.Option("--allow-unequal", help="Allow topologies on unequal devices; throughput is then per device."),
    ] = False,
    ppd_threshold: Annotated[
        int, typer.Option(help="ppd sends a later turn to P when it brings this many uncached tokens or more.")
    ] = 512,
    output: flags.Output = Path("results"),
    preset: Annotated[
        str,
        typer.Option(
            is_eager=True,
            callback=_apply_preset,
            help="'demo': three modes of SmolLM2 on two cores in a few minutes. Other flags still count.",
        ),
    ] = "",
) -> None:
    """Measure serving modes against each other on the same devices, and say which wins.

    Starts each mode's topology in turn on the same devices, warms it up, drives the same seeded conversations through
    it, checks the answers, and prints TTFT, TPOT and E2E per mode and turn, throughput, success, and the winner or a
    tie per metric. One JSON results file keeps every request's timeline. Ctrl-C stops everything and keeps what was
    measured.

    \b
    Examples:
      tercet compare --preset demo
      tercet compare --modes replicated,ppd --workload W2 --scale 0.125 --turns 4 --qps 0.25,0.5
      tercet compare --workload 256/32 --scale 1 --runs 3 --dtype fp32
      tercet compare --engine virtual --gpu h100 --scale 1 --qps 2,8 --num-requests 64
      tercet compare --modes aggregated,pd --topologies aggregated=1A,pd=1P1D --allow-unequal
    """
    from tercet.compare.spec import CompareSpec
    from tercet.worker.config import WorkerConfig

    rates = flags.parse_rates(qps)
    traffic = flags.traffic_spec(workload, scale, rates[0], num_requests, turns, think, arrivals, seed)
    given: dict[str, Any] = {
        "engine": engine,
        "gpu": gpu,
        "dtype": dtype,
        "transport": transport,
        "random_weights": random_weights,
        "max_model_len": max_model_len or max(EngineSpec().max_model_len, _round_up(traffic.longest + 1)),
    }
    chosen = replace(EngineSpec(), **{name: value for name, value in given.items() if value is not None})
    # Refuses what no worker accepts before anything starts.
    WorkerConfig(engine=chosen.engine, gpu=chosen.gpu, dtype=chosen.dtype, transport=chosen.transport)
    spec = CompareSpec(
        modes=tuple(mode_from_name(name) for name in _split(modes)),
        traffic=traffic,
        rates=rates,
        scale=scale,
        runs=runs,
        model=model or DEFAULT_MODEL,
        engine=chosen,
        router=RouterSpec(port=0, ppd_threshold=ppd_threshold),
        devices=_split(devices),
        topologies=_topologies(topologies),
        allow_unequal=allow_unequal,
    )
    if code := _run(spec, output, cache_dir):
        raise typer.Exit(code)


def _run(spec: CompareSpec, output: Path, cache_dir: Path | None) -> int:
    from tercet.bench.drive import drive
    from tercet.cli.measuring import command_line, finish, run_measured
    from tercet.cli.start_view import start_view
    from tercet.compare.run import Comparison
    from tercet.compare.spec import topology_for
    from tercet.launch.local import LocalDeployment
    from tercet.launch.model import prepare_model
    from tercet.report.progress import narrator
    from tercet.report.terminal import console_for_output
    from tercet.results.file import require_writable

    require_writable(output)
    console = console_for_output(stderr=True)
    comparison = Comparison(
        spec,
        deploy=lambda topology: LocalDeployment(topology, cache_dir=cache_dir),
        drive=drive,
        narrator=narrator(console),
        command=command_line(),
    )
    with start_view(console) as view:
        prepare_model(topology_for(spec, spec.modes[0]), cache_dir, view.model)
    outcome = run_measured(comparison.run())
    results = comparison.results(stopped_by=outcome.stopped_by) if comparison.runs else None
    return finish(outcome, results, output)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _topologies(text: str) -> dict[Mode, str]:
    found: dict[Mode, str] = {}
    for part in _split(text):
        mode, equals, form = part.partition("=")
        if not equals:
            raise UsageError(f"--topologies {part!r}: write MODE=FORM, for instance pd=1P3D")
        found[mode_from_name(mode)] = form
    return found


def _round_up(tokens: int) -> int:
    return -(-tokens // 256) * 256
