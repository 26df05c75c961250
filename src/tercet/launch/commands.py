"""The command lines of the parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tercet.core.stage import Stage, role_letter
from tercet.core.topology import Topology, WorkerSpec
from tercet.launch.engines.flags import flags_of
from tercet.launch.engines.protocol import WorkerProcess
from tercet.launch.engines.registry import engine_commands
from tercet.launch.model import sees
from tercet.launch.placement import Placement


class Commands(Protocol):
    """Builds the parts' command lines; tests put stand-ins here."""

    def sees(self, topology: Topology, cache_dir: Path | None) -> bool:
        """True when the topology's model takes pictures. Raises UsageError."""
        ...

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return how many consecutive ports the worker needs beside the one it serves on."""
        ...

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how to start the worker."""
        ...

    def router(self, placement: Placement) -> Sequence[str]:
        """Return the router's command line."""
        ...


class TercetCommands:
    """Workers as their engine is started, and `python -m tercet router ...`."""

    def sees(self, topology: Topology, cache_dir: Path | None) -> bool:
        """True when the model's configuration says so. Raises UsageError."""
        return sees(topology, cache_dir)

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return how many consecutive ports the worker needs beside the one it serves on."""
        return engine_commands(topology.engine.engine).side_ports(topology, worker)

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how to start the worker. Raises UsageError for settings that can't work, before anything runs."""
        return engine_commands(placement.topology.engine.engine).worker(placement, worker)

    def router(self, placement: Placement) -> Sequence[str]:
        """Return the router's command line."""
        topology = placement.topology
        router = topology.router
        engine = engine_commands(topology.engine.engine)
        flags: dict[str, object] = {
            "--mode": topology.mode,
            "--dialect": engine.dialect,
            "--health-timeout": engine.health_timeout_s,
            "--host": router.host,
            "--port": router.port,
            "--balancer": router.balancer,
            "--ppd-threshold": router.ppd_threshold,
            "--prefill-fallback": router.prefill_fallback,
            "--encode-fallback": router.encode_fallback,
            "--max-images": topology.engine.max_images,
            "--api-key-file": router.api_key_file,
            "--shutdown-grace": ROUTER_GRACE_S,
        }
        argv = [*_tercet("router"), *flags_of(flags)]
        for worker in topology.workers:
            argv += [_ROUTER_FLAGS[role_letter(worker.stages)], f"{placement.worker_url(worker)}{_said(worker)}"]
        return argv


ROUTER_GRACE_S = 3.0
"""What the router gives requests in flight when it is asked to end; less than the launcher's patience with it."""

_ROUTER_FLAGS = {"A": "--worker", "E": "--encode", "P": "--prefill", "D": "--decode"}


def _tercet(command: str) -> list[str]:
    return [sys.executable, "-m", "tercet", command]


def _said(worker: WorkerSpec) -> str:
    """Return what the router is told of a worker besides its URL and role."""
    said = [] if worker.ranks == 1 else [f"ranks={worker.ranks}"]
    if Stage.ENCODE in worker.stages and role_letter(worker.stages) != "E":
        said.append("encode")
    return "#" + ",".join(said) if said else ""
