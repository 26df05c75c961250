"""What results files tell of a machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.bench.observed import observed
from tercet.core.errors import UsageError
from tercet.latency.samples import Sample
from tercet.results.document import Results
from tercet.results.foreign import read_any


@dataclass(frozen=True, slots=True)
class Timings:
    """Timings of steps, with what was measured: the `model` where all files name the same one, each architecture's
    engine settings, and the most devices of any."""

    samples: Sequence[Sample]
    model: str | None
    engines: Sequence[dict[str, Any]]
    devices: int


def timings_of(files: Iterable[Path]) -> Timings:
    """Read results files, ours or others'. Raises UsageError when they can't be read or tell nothing."""
    paths = list(files)
    return timings_in([read_any(path) for path in paths], ", ".join(map(str, paths)))


def timings_in(results: Iterable[Results], name: str) -> Timings:
    """Return the timings of results called `name`. Raises UsageError when there are none."""
    samples: list[Sample] = []
    models: set[str] = set()
    engines: list[dict[str, Any]] = []
    devices = 0
    for each in results:
        samples += observed(each)
        models.add(each.model)
        engines += [dict(architecture.engine) for architecture in each.architectures]
        devices = max([devices, *(architecture.devices for architecture in each.architectures)])
    if not samples:
        raise UsageError(f"{name}: no valid run tells of a first token or of decoding")
    return Timings(samples, models.pop() if len(models) == 1 else None, engines, devices)
