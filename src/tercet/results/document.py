"""The results document: everything one comparison or benchmark leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tercet.results.curve import Improvement, Interference, RatioCurve
from tercet.results.record import RunRecord
from tercet.results.slo import Slo, slo_from_flags
from tercet.results.summary import Summary
from tercet.results.verdict import AnswerCheck, Verdict

SCHEMA_VERSION = 2
"""Raised when a reader of the older files would misread the newer ones."""

SIMULATED = "simulate"
"""The kind of a file that holds predictions."""

PREDICTED = "predicted"
"""What the architectures of such a file have in their labels, so that they are told apart wherever they are shown."""


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
    """What was sent of one workload. Lengths are per turn after scaling (means, where they vary; of real text a token
    for four characters).

    `think_s` is the pause before a later turn, `arrivals` how conversations came ("poisson", "constant", "gamma",
    "trace", "closed"), `options` what else the workload was told (ranges, images, a file...).
    """

    workload: str
    scale: float
    input_tokens: int
    output_tokens: int
    turns: int
    think_s: float
    arrivals: str
    num_requests: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slo(self) -> Slo | None:
        """What goodput asks for; None where nothing was asked for."""
        return slo_from_flags(str(self.options.get("slo") or "").split())

    def with_slo(self, slo: Slo | None) -> TrafficRecord:
        """Return the record with what goodput asks for."""
        return self if slo is None else replace(self, options={**self.options, "slo": str(slo)})


@dataclass(frozen=True, slots=True)
class ArchitectureRecord:
    """One thing that was compared: its `label`, its `mode`, and what served it.

    `short_form` such as 1P1D (empty for a server that was not started here, whose `url` is given), worker name -> its
    devices, and the engine's and router's settings. `devices` is how many there are in all.
    """

    label: str
    mode: str
    short_form: str
    workers: Mapping[str, tuple[str, ...]]
    devices: int
    engine: Mapping[str, Any]
    router: Mapping[str, Any]
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """How a comparison judges. `primary` names the metrics a winner is named for; `tie_margin` 0.03 is three percent.

    `keep`: "turn" (topologies started in turn) or "warm" (side by side). `unequal`: allowed to have unequal devices.
    """

    blocks: int
    primary: tuple[str, ...]
    tie_margin: float
    keep: str
    unequal: bool


@dataclass(frozen=True, slots=True)
class Source:
    """One of the files that a merged one was made of."""

    file: str
    created_at: str
    command: tuple[str, ...]
    versions: Mapping[str, str]
    machine: Machine
    architectures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """One results file. `kind` is "compare", "bench", or SIMULATED when nothing was measured.

    `interrupted`: it holds what was measured until then.

    `sources` are the files it was merged from; empty for a measurement.
    """

    kind: str
    created_at: str
    command: tuple[str, ...]
    versions: Mapping[str, str]
    machine: Machine
    model: str
    seed: int
    traffics: tuple[TrafficRecord, ...]
    architectures: tuple[ArchitectureRecord, ...]
    runs: tuple[RunRecord, ...]
    summaries: tuple[Summary, ...]
    verdicts: tuple[Verdict, ...]
    answers: AnswerCheck | None
    curves: tuple[RatioCurve, ...] = ()
    improvements: tuple[Improvement, ...] = ()
    interference: tuple[Interference, ...] = ()
    method: Method | None = None
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    def traffic(self, workload: str) -> TrafficRecord:
        """Return what was sent of `workload`."""
        return next(traffic for traffic in self.traffics if traffic.workload == workload)
