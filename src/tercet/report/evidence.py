"""What a report is drawn from: per architecture and load, every figure's estimate over the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tercet.report.estimate import Estimate
from tercet.report.metric import Metric
from tercet.report.place import Place
from tercet.results.document import ArchitectureRecord
from tercet.results.record import ClientHealth
from tercet.results.slo import Slo


@dataclass(frozen=True, slots=True)
class Group:
    """A workload and a kind of load: one panel of every chart, one table of every figure."""

    workload: str
    load_kind: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One architecture in one place. `estimates` are by metric key, over valid runs (over all when none is valid).

    `hops_ms` are mean milliseconds a request spent in each hop; `busy` the busy fraction of each stage, the mean of
    its workers; `health` the worst of its runs' clients.
    """

    place: Place
    architecture: str
    devices: int
    runs: int
    invalid_runs: int
    requests: int
    ok: int
    estimates: Mapping[str, Estimate]
    hops_ms: Mapping[str, float]
    busy: Mapping[str, float]
    health: ClientHealth
    foreign_cores: float | None
    reasons: tuple[str, ...]

    @property
    def group(self) -> Group:
        """Return the group whose panel it is drawn in."""
        return Group(self.place.workload, self.place.load_kind)

    @property
    def invalid(self) -> bool:
        """True when no run of it is evidence."""
        return self.invalid_runs == self.runs

    def get(self, metric: Metric) -> Estimate | None:
        """Return the estimate of a metric, None where there is none."""
        return self.estimates.get(metric.key)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it. Architectures, and cells within a place, are in the order of the results; loads rise.

    `slos` are what goodput asks for in each group, and `slo_source` where that comes from.
    """

    architectures: tuple[ArchitectureRecord, ...]
    cells: tuple[Cell, ...]
    slos: Mapping[Group, Slo]
    slo_source: str
    tie_margin: float

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the architectures' names."""
        return tuple(architecture.label for architecture in self.architectures)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return the groups in the order of the results."""
        return tuple(dict.fromkeys(cell.group for cell in self.cells))

    def of(self, group: Group) -> tuple[Cell, ...]:
        """Return the cells of a group."""
        return tuple(cell for cell in self.cells if cell.group == group)

    def loads(self, group: Group) -> tuple[float, ...]:
        """Return the loads of a group, rising."""
        return tuple(sorted({cell.place.load for cell in self.of(group)}))

    def cell(self, place: Place, architecture: str) -> Cell | None:
        """Return the cell of an architecture in a place, None where it wasn't measured."""
        return next((c for c in self.cells if (c.place, c.architecture) == (place, architecture)), None)

    @property
    def unequal(self) -> bool:
        """True when the architectures had unequal numbers of devices."""
        return len({architecture.devices for architecture in self.architectures}) > 1


def roles(architecture: ArchitectureRecord) -> str:
    """Return the letters of its kinds of workers, such as `PD`; empty when what served it is unknown."""
    return "".join(dict.fromkeys(letter for letter in architecture.short_form if letter.isalpha()))


def complexity(architecture: ArchitectureRecord) -> str:
    """Return Low, Medium or High: one, two or three kinds of workers to run; a dash when unknown."""
    return {0: "-", 1: "Low", 2: "Medium"}.get(len(roles(architecture)), "High")
