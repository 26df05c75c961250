"""The results document: everything one comparison or benchmark leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tercet.results.record import RunRecord
from tercet.results.summary import ModeSummary
from tercet.results.verdict import AnswerCheck, Verdict

SCHEMA_VERSION = 1
"""Raised when a reader of the older files would misread the newer ones."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured. `usable_cores` is what this process may use; memory in bytes."""

    cpu: str
    cores: int
    usable_cores: int
    memory_bytes: int
    platform: str


@dataclass(frozen=True, slots=True)
class TrafficRecord:
    """What was sent. Lengths are per turn after scaling; `think_s` is the pause before a later turn."""

    workload: str
    scale: float
    input_tokens: int
    output_tokens: int
    turns: int
    think_s: float
    arrivals: str
    num_requests: int


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """What served one mode: `short_form` such as 1P1D, worker name -> its devices, and the engine's settings."""

    mode: str
    short_form: str
    workers: dict[str, tuple[str, ...]]
    devices: int
    engine: dict[str, Any]
    router: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """One results file. `kind` is "compare" or "bench"; `interrupted`: it holds what was measured until then."""

    kind: str
    created_at: str
    command: tuple[str, ...]
    versions: dict[str, str]
    machine: Machine
    model: str
    seed: int
    traffic: TrafficRecord
    deployments: tuple[DeploymentRecord, ...]
    runs: tuple[RunRecord, ...]
    summaries: tuple[ModeSummary, ...]
    verdicts: tuple[Verdict, ...]
    answers: AnswerCheck | None
    notes: tuple[str, ...] = ()
    interrupted: bool = False
