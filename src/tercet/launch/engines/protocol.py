"""What an engine must say so that the launcher can start its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tercet.core.topology import Topology, WorkerSpec
from tercet.launch.placement import Placement


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """How one worker is started. `env` is laid over the launcher's; `ready_path` answers 200 once it can serve.

    `files` holds the text of the files that its command line names and that must lie there first, by path;
    `key_variable` is the variable of its environment that holds the one API key it lets in, `key_file` the YAML file
    whose `api-key` is that: either way the key is on no command line.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/ready"
    files: Mapping[str, str] = field(default_factory=dict)
    key_variable: str | None = None
    key_file: str | None = None


class EngineCommands(Protocol):
    """One engine: what its workers speak, how long they may take to start, and their command lines."""

    @property
    def dialect(self) -> str:
        """The dialect that the router speaks to its workers."""
        ...

    @property
    def start_timeout_s(self) -> float:
        """How long a worker may take to start when nobody says."""
        ...

    @property
    def health_timeout_s(self) -> float | None:
        """How long a living worker may leave a health check unanswered; None: the router's own default."""
        ...

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return how many consecutive ports the worker needs beside the one it serves on."""
        ...

    def check(self, placement: Placement, worker: WorkerSpec) -> None:
        """Raise UsageError for settings that the engine can't follow. Fetches nothing, and needs no engine here."""
        ...

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how to start the worker. Raises UsageError for settings that can't work, before anything runs."""
        ...

    def container(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how the worker's container is started: on any machine, by programs and models of its image's own.

        Raises UsageError for settings that can't work there.
        """
        ...

    def said(self, placement: Placement, worker: WorkerSpec) -> tuple[str, ...]:
        """Return what the router must be told of the worker besides its URL, role and ranks: `bootstrap=8998`."""
        ...
