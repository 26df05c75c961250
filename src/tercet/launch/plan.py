"""What a deployment would start, without starting it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tercet.core.topology import Topology
from tercet.launch.commands import TercetCommands
from tercet.launch.devices import default_devices, present_gpus, resolve_devices
from tercet.launch.engines.environment import BY_HAND, STAND_IN, python_of
from tercet.launch.model import sees_or_may, with_stages
from tercet.launch.placement import Placement

RUN_PATH = Path("/tmp/tercet")
"""Stands for the deployment's folder, which there is only once it runs."""


def planned_lines(topology: Topology, cache_dir: Path | None = None) -> Iterator[str]:
    """Yield each part's command line, for a shell: its variables, then its program. Files it needs come before it.

    Ports that the launcher would choose follow the router's, free or not. An engine that is not installed here, and
    weights that are not, are named as another machine may have them. Raises UsageError as starting would otherwise.
    """
    commands = TercetCommands()
    gpus = _assumed_gpus(topology)
    topology = replace(topology, devices=topology.devices or gpus)
    seeing, unknown = sees_or_may(topology, cache_dir)
    assigned, warnings = resolve_devices(with_stages(topology, seeing))
    if unknown:
        yield f"# {unknown}: whether it takes pictures is not known; {'yes' if seeing else 'no'} is assumed"
    if gpus:
        yield f"# no GPU is here, and {topology.engine.engine} needs some: these are assumed: {', '.join(gpus)}"
    yield from (f"# {warning}" for warning in warnings)
    taken = {assigned.router.port, *(worker.port for worker in assigned.workers)}
    ports = (port for port in range((assigned.router.port or 8000) + 1, 65536) if port not in taken)
    workers = tuple(worker if worker.port else replace(worker, port=next(ports)) for worker in assigned.workers)
    router = replace(assigned.router, port=assigned.router.port or 8000)
    assigned = replace(assigned, workers=workers, router=router)
    side = {worker.name: commands.side_ports(assigned, worker) for worker in workers}
    side_ports = {name: tuple(next(ports) for _ in range(count)) for name, count in side.items() if count}
    placement = Placement(
        assigned, assigned.name, cache_dir=cache_dir, run_path=RUN_PATH, side_ports=side_ports, dry=True
    )
    if missing := _missing(placement):
        yield f"# {missing}: its program is named without a path"
    for worker in workers:
        process = commands.worker(placement, worker)
        yield f"# {worker.name}"
        for path, text in process.files.items():
            yield f"cat > {shlex.quote(path)} <<'END'\n{text}END"
        yield " ".join(
            [*(f"{name}={shlex.quote(value)}" for name, value in process.env.items()), shlex.join(process.argv)]
        )
    yield "# router"
    yield shlex.join(commands.router(placement))


def _missing(placement: Placement) -> str:
    """Return what is said of an engine that no Python here has; empty where one has it, or ours computes."""
    engine = placement.topology.engine
    if engine.engine in ("tercet", "virtual") or python_of(engine.engine, placement) != STAND_IN:
        return ""
    return f"{engine.engine} is not installed here"


def _assumed_gpus(topology: Topology) -> tuple[str, ...]:
    """Return a device a rank for an engine that needs GPUs, where none were named and none are here; else nothing."""
    engine = topology.engine
    named = topology.devices or any(worker.devices for worker in topology.workers)
    if engine.engine not in BY_HAND or named or present_gpus():
        return ()
    gpus = topology.ranks * engine.tensor_parallel
    return default_devices(topology.ranks, cores=(), gpus=gpus, tensor_parallel=engine.tensor_parallel)
