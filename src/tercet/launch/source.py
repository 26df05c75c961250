"""What `tercet serve` was asked for: a file, a short form or a mode's preset, and the flags over it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.core.stage import Mode, role_letter
from tercet.core.topology import (
    PRESETS,
    EngineSpec,
    RouterSpec,
    Topology,
    WorkerSpec,
    check_encode_fallback,
    default_mode,
    default_model,
    parse_short_form,
    require_stages,
)
from tercet.launch.topology_file import check_gpu, faults, load_topology, topology_to_dict


@dataclass(frozen=True, slots=True)
class Asked:
    """A topology file and the flags over it, to be read again."""

    path: Path
    mode: Mode | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> Topology:
        """Return the topology as the file says now. Raises UsageError."""
        return with_settings(topology_from(str(self.path), self.mode), self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, as JSON can hold it."""
        return {"path": str(self.path), "mode": self.mode, "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Asked:
        """Read what `to_dict` returned, after JSON."""
        settings = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data["settings"].items()
        }
        return cls(Path(data["path"]), None if data["mode"] is None else Mode(data["mode"]), settings)


_SHORT_FORM = re.compile(r"(?:[0-9]+[A-Za-z])+")


def topology_from(source: str | None, mode: Mode | None) -> Topology:
    """Return the topology of a file or a short form; with no source the preset of `mode` (default aggregated).

    `mode` wins over the file's. Raises UsageError.
    """
    if source is None:
        source = PRESETS[mode or Mode.AGGREGATED]
    if _SHORT_FORM.fullmatch(source) and not Path(source).exists():
        workers = parse_short_form(source)
        if mode is not None:
            require_stages(mode, workers)
        return Topology(source.lower(), default_model(workers), mode or default_mode(workers), workers)
    if not Path(source).is_file():
        raise UsageError(f"{source!r} is neither a topology file nor a short form such as 1P1D or 2A")
    topology = load_topology(Path(source))
    return topology if mode is None else topology.with_mode(mode)


def with_settings(topology: Topology, settings: Mapping[str, Any]) -> Topology:
    """Return the topology with the settings that are not None, each named as a field of topology, engine or router.

    Raises UsageError for a value that a topology file could not have either, naming the flag.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    engine = {name: given.pop(name) for name in _names(EngineSpec) if name in given}
    router = {name: given.pop(name) for name in _names(RouterSpec) if name in given}
    if "devices" in given:
        # Devices named at the terminal replace all of the file's, those of single workers too.
        given["workers"] = tuple(replace(worker, devices=()) for worker in topology.workers)
    if ranks := given.pop("data_parallel_size", None):
        given["workers"] = _with_ranks(given.get("workers", topology.workers), ranks)
    changed = replace(
        topology,
        engine=replace(topology.engine, **engine),
        router=replace(topology.router, **router),
        **given,
    )
    complaints = dict.fromkeys(f"--{_flag(path)}: {message}" for path, message in faults(topology_to_dict(changed)))
    if complaints:
        raise UsageError("\n".join(complaints))
    check_gpu(changed.engine.gpu)
    check_encode_fallback(changed.router.encode_fallback, changed.workers)
    return changed


def _with_ranks(workers: tuple[WorkerSpec, ...], ranks: int) -> tuple[WorkerSpec, ...]:
    """Return the workers with so many ranks each, but for those that only encode. Devices named for another number
    are dropped."""
    return tuple(
        worker
        if role_letter(worker.stages) == "E"
        else replace(worker, ranks=ranks, devices=worker.devices if len(worker.devices) == ranks else ())
        for worker in workers
    )


def _flag(path: tuple[str | int, ...]) -> str:
    names = [part for part in path if isinstance(part, str)]
    flag = names[-1].replace("_", "-") if names else ""
    return {"ranks": "data-parallel-size"}.get(flag, flag)


def _names(spec: type[EngineSpec] | type[RouterSpec]) -> list[str]:
    return [field.name for field in fields(spec)]
