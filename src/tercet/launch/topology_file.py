"""Topology files: YAML checked against the published schema; complaints name file, line and the nearest right word."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tercet.core.errors import UsageError
from tercet.core.stage import ROLE_NAMES, Stage, role_letter
from tercet.core.topology import (
    EngineSpec,
    RouterSpec,
    Topology,
    WorkerSpec,
    check_encode_fallback,
    default_mode,
    default_model,
    mode_from_name,
    parse_short_form,
    require_stages,
)
from tercet.latency.gpus import gpu_names

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

MAX_COMPLAINTS = 8
NOT_WORKERS = frozenset({"router", "launcher", "workers", "deployment"})
"""Names that a deployment has for its other parts: of their logs, of the file that names the workers to the router, and
of the whole where it tells how it goes."""
_SECONDS = {
    name: f"{name}_s"
    for name in (
        "lease",
        "media_timeout",
        "connect_timeout",
        "first_byte_timeout",
        "encode_timeout",
        "answer_timeout",
        "idle_timeout",
        "queue_timeout",
    )
}
"""Settings in seconds, whose unit the file and the flags leave out."""


@cache
def schema_text() -> str:
    """Return the published JSON schema of topology files."""
    return files("tercet.launch").joinpath("topology.schema.json").read_text(encoding="utf-8")


def load_topology(path: Path) -> Topology:
    """Read a topology file. Raises UsageError whose every line reads `file:line: where: what`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read topology file {path}: {error}") from error
    return parse_topology(text, str(path))


def parse_topology(text: str, source: str) -> Topology:
    """Read a topology from YAML (or JSON) text; `source` is what messages call it. Raises UsageError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise UsageError(f"{source}:1: empty; a topology needs at least `workers: 1P1D`")
        _refuse_duplicates(root, source, ())
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date of month 13 is a ValueError
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    complaints = [(_line(root, path), f"{_where(path)}{message}") for path, message in faults(data)]
    if complaints:
        lines = [f"{source}:{line}: {message}" for line, message in sorted(set(complaints))]
        raise UsageError("\n".join(lines[:MAX_COMPLAINTS]))
    try:
        return _build(data)
    except _PlacedError as error:
        raise UsageError(f"{source}:{_line(root, error.path)}: {error}") from error


def faults(data: object) -> list[tuple[tuple[str | int, ...], str]]:
    """Return (place, complaint) for everything in a topology document that the schema forbids."""
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(json.loads(schema_text())).iter_errors(data)
    return [*(found for error in errors for found in _explain(error)), *_not_finite(data, ())]


def _not_finite(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the places of what JSON has no number for, and so a schema no word: infinity and nan."""
    if isinstance(value, float) and not isfinite(value):
        yield path, f"{value} is no number of anything"
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _not_finite(each, (*path, key))


def check_gpu(gpu: str | None) -> None:
    """Raise UsageError for a GPU that nobody can imitate."""
    if gpu is not None and gpu.lower() not in gpu_names():
        raise UsageError(f"unknown GPU {gpu!r}: known are {', '.join(gpu_names())}")


class _PlacedError(UsageError):
    """A complaint that the schema can't express, with its place in the document."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{_where(path)}{message}")
        self.path = path


def _build(data: dict[str, Any]) -> Topology:
    workers = data["workers"]
    specs = parse_short_form(workers) if isinstance(workers, str) else _workers(workers)
    try:
        mode = mode_from_name(data["mode"]) if "mode" in data else default_mode(specs)
        require_stages(mode, specs)
    except UsageError as error:
        raise _PlacedError(("mode",) if "mode" in data else ("workers",), str(error)) from error
    router = RouterSpec(**_fields(data.get("router", {})))
    try:
        check_encode_fallback(router.encode_fallback, specs)
    except UsageError as error:
        raise _PlacedError(("router", "encode_fallback"), str(error)) from error
    try:
        check_gpu(data.get("engine", {}).get("gpu"))
    except UsageError as error:
        raise _PlacedError(("engine", "gpu"), str(error)) from error
    topology = Topology(
        name=data.get("name", ""),
        model=data.get("model", default_model(specs)),
        mode=mode,
        workers=specs,
        devices=tuple(data.get("devices", ())),
        engine=EngineSpec(**_fields(data.get("engine", {}))),
        router=router,
    )
    return topology if topology.name else replace(topology, name=topology.short_form.lower())


def _workers(entries: Sequence[dict[str, Any]]) -> tuple[WorkerSpec, ...]:
    specs: list[WorkerSpec] = []
    counts: dict[str, int] = {}
    for i, entry in enumerate(entries):
        stages = frozenset(Stage(stage) for stage in entry["stages"])
        role = ROLE_NAMES[role_letter(stages)]
        name = entry.get("name", f"{role}-{counts.get(role, 0)}")
        counts[role] = counts.get(role, 0) + 1
        devices = tuple(entry.get("devices", ()))
        ranks = entry.get("ranks", len(devices) or 1)
        port = entry.get("port", 0)
        if devices and len(devices) != ranks:
            raise _PlacedError(
                ("workers", i, "devices"), f"{len(devices)} devices for {ranks} ranks; name one per rank"
            )
        if name in NOT_WORKERS or any(name == spec.name for spec in specs):
            raise _PlacedError(("workers", i, "name"), f"the name {name!r} is taken; every worker needs its own")
        if port and any(port == spec.port for spec in specs):
            raise _PlacedError(("workers", i, "port"), f"port {port} is another worker's already")
        own = tuple(_fields(entry.get("engine", {})).items())
        specs.append(WorkerSpec(name, stages, ranks, devices, port, own))
    return tuple(specs)


def _fields(entry: dict[str, Any]) -> dict[str, Any]:
    """Return settings of the file under the names that EngineSpec and RouterSpec have for them."""
    return {_SECONDS.get(name, name): float(value) if name in _SECONDS else value for name, value in entry.items()}


def _entry(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `_fields` reads."""
    return {name.removesuffix("_s") if name in _SECONDS.values() else name: value for name, value in settings.items()}


def topology_to_dict(topology: Topology) -> dict[str, Any]:
    """Return the document that `parse_topology` reads back as the same topology."""
    engine, router = topology.engine, topology.router
    return {
        "name": topology.name,
        "model": topology.model,
        "mode": str(topology.mode),
        **({"devices": list(topology.devices)} if topology.devices else {}),
        "workers": [
            {
                "name": worker.name,
                "stages": sorted(str(stage) for stage in worker.stages),
                "ranks": worker.ranks,
                **({"devices": list(worker.devices)} if worker.devices else {}),
                "port": worker.port,
                **({"engine": _entry(dict(worker.engine))} if worker.engine else {}),
            }
            for worker in topology.workers
        ],
        "engine": _entry({field: getattr(engine, field) for field in EngineSpec.__dataclass_fields__}),
        "router": _entry({field: getattr(router, field) for field in RouterSpec.__dataclass_fields__}),
    }


def _explain(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Return (place, message) pairs for one jsonschema error, in the words of the person who writes the file."""
    path: tuple[str | int, ...] = tuple(error.absolute_path)
    value: Any = error.instance
    rule: Any = error.validator_value
    if error.validator == "additionalProperties":
        schema: Any = error.schema
        known = list(schema["properties"])
        unknown = [key for key in value if key not in known]
        return [((*path, key), f"unknown key{_nearest(str(key), known)}") for key in unknown]
    if error.validator == "enum":
        choices = [str(choice) for choice in rule if choice is not None]
        near = get_close_matches(value, choices, n=1, cutoff=0.5) if isinstance(value, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return [(path, f"{value!r} is not one of {', '.join(choices)}{hint}")]
    if error.validator == "type":
        wanted = " or ".join([rule] if isinstance(rule, str) else rule)
        return [(path, f"{value!r} is not of type {wanted}")]
    if error.validator == "required":
        return [(path, error.message)]
    if error.validator == "pattern":
        return [(path, f"{value!r} is not of the form {_FORMS.get(rule, rule)}")]
    return [(path, error.message)]


_FORMS = {
    "^([1-9][0-9]{0,3}[EPDA])+$": "1P1D, 2A or 2E1P1D",
    "^(cpu(:[0-9]+(-[0-9]+)?(\\+[0-9]+(-[0-9]+)?)*)?|cuda(:[0-9]+(\\+[0-9]+)*)?)$": "cpu:0, cpu:0-3, cpu:0+2, "
    "cuda:0 or cuda:0+1",
    "^[a-z0-9][a-z0-9-]{0,40}$": "small letters, digits and hyphens",
    "^https?://.": "http://HOST:4318",
}


def _nearest(word: str, known: Sequence[str]) -> str:
    matches = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known are {', '.join(known)}"


def _where(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return f"{text}: " if text else ""


def _line(root: yaml.Node, path: tuple[str | int, ...]) -> int:
    """Return the 1-based line of a place in the document; that of its nearest written ancestor when it is absent."""
    node, line = root, int(root.start_mark.line) + 1
    for part in path:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part or key.value == str(part):
                    found, line = value, int(key.start_mark.line) + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = node.value[part]
            line = int(found.start_mark.line) + 1
        if found is None:
            break
        node = found
    return line


def _refuse_duplicates(node: yaml.Node, source: str, above: tuple[int, ...]) -> None:
    """Refuse a key written twice (YAML would keep the last, silently) and a node that holds itself."""
    if id(node) in above:
        raise UsageError(f"{source}:{node.start_mark.line + 1}: an alias that holds itself")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, source, above)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            line = int(key.start_mark.line) + 1
            if isinstance(key.value, str):
                if key.value in seen:
                    raise UsageError(f"{source}:{line}: {key.value!r} is already set in line {seen[key.value]}")
                seen[key.value] = line
            _refuse_duplicates(value, source, above)
