"""A topology whose ports and devices are decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tercet.core.topology import Topology, WorkerSpec


@dataclass(frozen=True, slots=True)
class Placement:
    """What a command line needs beyond the topology.

    `run_path` is the deployment's folder, gone with it. `side_ports` holds by worker the consecutive ports that its
    engine asked for beside the one it serves on, `hosts` the names of workers that others don't reach at `host`. `dry`
    when nothing will be started: what is not on this machine is named as it may be found on another.
    """

    topology: Topology
    topology_id: str
    host: str = "127.0.0.1"
    cache_dir: Path | None = None
    run_path: Path | None = None
    side_ports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    dry: bool = False

    def of(self, worker: WorkerSpec) -> Placement:
        """Return the placement as `worker` sees it: with its own engine settings."""
        return replace(self, topology=self.topology.of(worker)) if worker.engine else self

    def worker_url(self, worker: WorkerSpec) -> str:
        """Return the worker's URL. On one machine workers listen on loopback only: the router is the door."""
        return f"http://{self.hosts.get(worker.name, self.host)}:{worker.port}"

    @property
    def router_url(self) -> str:
        """Return the router's URL as a client on this machine writes it."""
        host = self.topology.router.host
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        scheme = "http" if self.topology.router.tls_cert is None else "https"
        return f"{scheme}://{shown}:{self.topology.router.port}"
