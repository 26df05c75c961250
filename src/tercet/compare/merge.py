"""Results files of different days or machines joined to one comparison, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from tercet.compare.answers import check_answers
from tercet.compare.derive import derived
from tercet.compare.metrics import primary_metrics
from tercet.core.errors import UsageError
from tercet.results.document import ArchitectureRecord, Method, Results, Source, TrafficRecord
from tercet.results.file import read
from tercet.results.names import told_apart
from tercet.results.record import RunRecord
from tercet.results.slo import Slo

AT_LEAST = 2


@dataclass(frozen=True, slots=True)
class Part:
    """One file: its name and what is taken from it."""

    name: str
    results: Results
    labels: tuple[str, ...]

    @property
    def architectures(self) -> Iterator[ArchitectureRecord]:
        """The architectures taken from it."""
        return (record for record in self.results.architectures if record.label in self.labels)

    @property
    def runs(self) -> Iterator[RunRecord]:
        """Their runs."""
        return (run for run in self.results.runs if run.architecture in self.labels)

    def judged_by(self, slo: Slo | None) -> Part:
        """Return it with these limits in place of those that it was measured with; None keeps them."""
        traffics = tuple(traffic.with_slo(slo) for traffic in self.results.traffics)
        return replace(self, results=replace(self.results, traffics=traffics))


def load(paths: Sequence[Path]) -> list[Part]:
    """Read the files, everything of each. Raises UsageError."""
    if len(paths) < AT_LEAST:
        raise UsageError("--merge needs two results files or more, or 'auto' where --output holds them")
    names = told_apart(paths)
    found = [read(path) for path in paths]
    return [
        Part(name, results, tuple(record.label for record in results.architectures))
        for name, results in zip(names, found, strict=True)
    ]


def find_latest(folder: Path, slo: Slo | None = None) -> list[Path]:
    """Return the newest whole file of each architecture in `folder` that can be compared with the newest of all, when
    each is judged by `slo`."""
    files = sorted(folder.glob("tercet-compare-*.json"), key=_age, reverse=True)
    chosen: list[Path] = []
    parts: list[Part] = []
    for path in files:
        part = load_one(path)
        if part is None or part.results.sources or part.results.interrupted:
            continue
        part = part.judged_by(slo)
        if any(set(part.labels) & set(other.labels) for other in parts) or (parts and obstacle([*parts, part])):
            continue
        chosen.append(path)
        parts.append(part)
    if len(chosen) < AT_LEAST:
        raise UsageError(
            f"{folder} holds no two files of different architectures that can be compared: name some, to hear why"
        )
    return chosen


def _age(path: Path) -> tuple[str, int, str]:
    """Return by what files of a folder are in the order of their writing: the later ones of a second have a number."""
    second, _, number = path.stem.partition("Z")
    return second, len(number), number


def load_one(path: Path) -> Part | None:
    """Read one file; None for one that is none."""
    try:
        results = read(path)
    except UsageError:
        return None
    return Part(path.name, results, tuple(record.label for record in results.architectures))


def obstacle(parts: Sequence[Part], *, allow_unequal: bool = False) -> str | None:
    """Return why the parts can't be compared, naming file and field; None when they can."""
    for first, other in combinations(parts, 2):
        names = f"{first.name} and {other.name}"
        for what, mine, theirs in _facts(first.results, other.results):
            if mine != theirs:
                return f"{names} differ in {what}: {mine} and {theirs}"
        if not allow_unequal and (why := _unequal(first, other)):
            return f"{names} {why}; --allow-unequal compares per device"
    return _twice(parts) or _unpaired(parts)


def merged(
    parts: Sequence[Part],
    *,
    allow_unequal: bool,
    primary: Sequence[str],
    tie_margin: float,
    command: Sequence[str],
    created_at: str,
) -> Results:
    """Return one document of all parts, judged anew. Raises UsageError when they can't be compared, saying why."""
    if why := obstacle(parts, allow_unequal=allow_unequal):
        raise UsageError(f"can't merge: {why}")
    first = parts[0].results
    runs = tuple(replace(run, order=order) for order, run in enumerate(run for part in parts for run in part.runs))
    traffics = {traffic.workload: traffic for part in parts for traffic in part.results.traffics}
    turns = max(traffic.turns for traffic in traffics.values())
    slo = next((traffic.slo for traffic in traffics.values() if traffic.slo is not None), None)
    checks = [part.results.answers for part in parts if part.results.answers is not None]
    capital = {label: answer for check in checks for label, answer in check.capital.items()}
    exact = bool(checks) and all(check.must_agree for check in checks)
    raw = replace(
        first,
        kind="compare",
        created_at=created_at,
        command=tuple(command),
        traffics=tuple(traffics.values()),
        architectures=tuple(record for part in parts for record in part.architectures),
        runs=runs,
        answers=check_answers(runs, capital, must_agree=exact),
        interference=tuple(found for part in parts for found in part.results.interference),
        sources=tuple(_source(part) for part in parts),
        notes=tuple(dict.fromkeys((*_notes(parts), *(note for part in parts for note in part.results.notes)))),
        interrupted=any(part.results.interrupted for part in parts),
    )
    blocks = max(run.block for run in runs) + 1
    return derived(raw, Method(blocks, primary_metrics(primary, turns, slo), tie_margin, "turn", allow_unequal))


def _facts(mine: Results, theirs: Results) -> Iterator[tuple[str, Any, Any]]:
    yield "the model", mine.model, theirs.model
    yield "the seed", mine.seed, theirs.seed
    both = [
        traffic.workload for traffic in mine.traffics if any(t.workload == traffic.workload for t in theirs.traffics)
    ]
    for workload in both:
        for what, one, other in _traffic_facts(mine.traffic(workload), theirs.traffic(workload)):
            yield f"{what} of {workload}", one, other


def _traffic_facts(mine: TrafficRecord, theirs: TrafficRecord) -> Iterator[tuple[str, Any, Any]]:
    yield "the input tokens", mine.input_tokens, theirs.input_tokens
    yield "the output tokens", mine.output_tokens, theirs.output_tokens
    yield "the turns", mine.turns, theirs.turns
    yield "the think time", mine.think_s, theirs.think_s
    yield "the arrivals", mine.arrivals, theirs.arrivals
    yield "the number of requests", mine.num_requests, theirs.num_requests
    yield "the options", dict(mine.options), dict(theirs.options)


def _unequal(first: Part, other: Part) -> str | None:
    """Say how the devices of two parts differ; None when they don't."""
    counts = {record.label: record.devices for part in (first, other) for record in part.architectures}
    if len(set(counts.values())) > 1:
        return f"have unequal numbers of devices ({', '.join(f'{label} {count}' for label, count in counts.items())})"
    kinds = [{_device_kind(part.results, record) for record in part.architectures} for part in (first, other)]
    if kinds[0] != kinds[1]:
        return f"ran on different devices ({', '.join(sorted(kinds[0]))}; {', '.join(sorted(kinds[1]))})"
    return None


def _device_kind(results: Results, record: ArchitectureRecord) -> str:
    """Return what computed: a virtual GPU, or this processor's cores, by so many a device; of a server, unknown."""
    if record.url is not None:
        return "unknown devices of a server"
    if record.engine.get("engine") == "virtual":
        return f"virtual {record.engine.get('gpu')}"
    devices = {device for worker in record.workers.values() for device in worker}
    kinds = "+".join(sorted({device.partition(":")[0] for device in devices}))
    sizes = sorted(_size(device) for device in devices)
    wide = f" x {'+'.join(map(str, sizes))}" if any(size > 1 for size in sizes) else ""
    return f"{kinds}{wide} of {results.machine.cpu}"


def _size(device: str) -> int:
    """Return how many cores or GPUs a device is: four of `cpu:0-3`, two of `cuda:0+1`, one where no number is said."""
    ranges = (part.partition("-") for part in device.partition(":")[2].split("+"))
    return sum(int(high) - int(low) + 1 if high.isdecimal() and low.isdecimal() else 1 for low, _, high in ranges)


def _twice(parts: Sequence[Part]) -> str | None:
    seen: dict[str, str] = {}
    for part in parts:
        for label in part.labels:
            if label in seen:
                return (
                    f"{seen[label]} and {part.name} both hold {label!r}: measure one of them under another label "
                    f"(--arch LABEL=SOURCE)"
                )
            seen[label] = part.name
    return None


def _unpaired(parts: Sequence[Part]) -> str | None:
    """Say why no runs pair up: no load in common, or not the same conversations."""
    salts: dict[tuple[str, str, float, int], dict[str, str]] = {}
    for part in parts:
        for run in part.runs:
            salts.setdefault((run.workload, run.load_kind, run.load, run.block), {})[part.name] = run.salt
    if not any(len(by_file) == len(parts) for by_file in salts.values()):
        return "they have no workload, load and block in common"
    for (workload, _, load, block), by_file in salts.items():
        if len(set(by_file.values())) > 1:
            return (
                f"block {block + 1} of {workload} at {load:g} sent other conversations in each file ("
                + ", ".join(f"{name}: {salt}" for name, salt in by_file.items())
                + "); where servers were named by URL, measure all files with the same --salt"
            )
    return None


def _source(part: Part) -> Source:
    results = part.results
    return Source(part.name, results.created_at, results.command, results.versions, results.machine, part.labels)


def _notes(parts: Sequence[Part]) -> Iterator[str]:
    yield (
        f"Merged from {', '.join(part.name for part in parts)}: measured one after the other, so what changed in "
        "between (temperature, other load) counts as a difference between architectures."
    )
    for part in parts[1:]:
        mine, theirs = parts[0].results, part.results
        changed = sorted(
            name for name in {*mine.versions, *theirs.versions} if mine.versions.get(name) != theirs.versions.get(name)
        )
        if changed:
            yield f"{parts[0].name} and {part.name} were measured with different versions of {', '.join(changed)}."
        if mine.machine != theirs.machine:
            yield f"{parts[0].name} and {part.name} were measured on different machines."
