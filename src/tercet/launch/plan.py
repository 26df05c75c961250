"""What a deployment would start, without starting it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tercet.core.topology import Topology
from tercet.launch.commands import TercetCommands
from tercet.launch.devices import resolve_devices
from tercet.launch.model import with_stages
from tercet.launch.placement import Placement

RUN_PATH = Path("/tmp/tercet")
"""Stands for the deployment's folder, which there is only once it runs."""


def planned_lines(topology: Topology, cache_dir: Path | None = None) -> Iterator[str]:
    """Yield each part's command line, for a shell: its variables, then its program. Files it needs come before it.

    Ports that the launcher would choose follow the router's, free or not. Raises UsageError as starting would.
    """
    commands = TercetCommands()
    assigned, warnings = resolve_devices(with_stages(topology, commands.sees(topology, cache_dir)))
    yield from (f"# {warning}" for warning in warnings)
    taken = {assigned.router.port, *(worker.port for worker in assigned.workers)}
    ports = (port for port in range((assigned.router.port or 8000) + 1, 65536) if port not in taken)
    workers = tuple(worker if worker.port else replace(worker, port=next(ports)) for worker in assigned.workers)
    router = replace(assigned.router, port=assigned.router.port or 8000)
    assigned = replace(assigned, workers=workers, router=router)
    side = {worker.name: commands.side_ports(assigned, worker) for worker in workers}
    side_ports = {name: tuple(next(ports) for _ in range(count)) for name, count in side.items() if count}
    placement = Placement(assigned, assigned.name, cache_dir=cache_dir, run_path=RUN_PATH, side_ports=side_ports)
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
