"""What a reader needs to measure it again: architectures, traffic, machines, versions and settings, as tables."""

from __future__ import annotations

from tercet.report.evidence import Evidence, complexity
from tercet.report.page.parts import Grid, Value
from tercet.results.document import Results


def architecture_grid(evidence: Evidence) -> Grid:
    """Return what served each architecture and what it takes to run it."""
    head = ("Architecture", "Mode", "Workers", "Devices", "Where", "Complexity")
    rows = tuple(
        (
            Value(record.label, kind="head"),
            Value(record.mode, kind="text"),
            Value(record.short_form or record.url or "unknown", kind="text"),
            Value(f"{record.devices}", "unequal" if evidence.unequal else "", "bad" if evidence.unequal else "number"),
            Value(", ".join(f"{name}: {', '.join(on)}" for name, on in record.workers.items()) or "-", kind="text"),
            Value(complexity(record), kind="text"),
        )
        for record in evidence.architectures
    )
    return Grid("Architectures and what they need", head, rows)


def traffic_grid(results: Results) -> Grid:
    """Return what was sent."""
    head = ("Workload", "Tokens in / out", "Scale", "Turns", "Think (s)", "Arrivals", "Requests per run", "Options")
    rows = tuple(
        (
            Value(each.workload, kind="head"),
            Value(f"{each.input_tokens} / {each.output_tokens}"),
            Value(f"{each.scale:g}"),
            Value(f"{each.turns}"),
            Value(f"{each.think_s:g}"),
            Value(each.arrivals, kind="text"),
            Value(f"{each.num_requests}"),
            Value(", ".join(f"{key} {value}" for key, value in each.options.items()) or "-", kind="text"),
        )
        for each in results.traffics
    )
    return Grid("Traffic, tokens per turn", head, rows)


def machine_grid(results: Results) -> Grid:
    """Return machine, versions, seed and dates, of every source of a merged file."""
    sources = [(source.file, source.created_at, source.machine, source.versions) for source in results.sources]
    sources = sources or [("", results.created_at, results.machine, results.versions)]
    rows = tuple(
        (
            Value(f"{file}, {when}" if file else when, kind="head"),
            Value(machine.cpu or "unknown", f"{machine.usable_cores} of {machine.cores} cores", "text"),
            Value(f"{machine.memory_bytes / 2**30:.0f}"),
            Value(machine.platform, kind="text"),
            Value(f"{results.seed}"),
            Value(", ".join(f"{name} {version}" for name, version in versions.items()), kind="text"),
        )
        for file, when, machine, versions in sources
    )
    return Grid("Machine and versions", ("Measured", "Processor", "Memory (GiB)", "System", "Seed", "Versions"), rows)


def settings_grid(evidence: Evidence) -> Grid | None:
    """Return the engines' and routers' settings, one row a setting; None where none are known."""
    parts = [(record, {"engine": record.engine, "router": record.router}) for record in evidence.architectures]
    names = dict.fromkeys((part, name) for _, both in parts for part, settings in both.items() for name in settings)
    rows = tuple(
        (
            Value(part, kind="head"),
            Value(name, kind="text"),
            *(Value(_setting(both[part].get(name)), kind="text") for _, both in parts),
        )
        for part, name in names
    )
    return Grid("Settings", ("Part", "Setting", *evidence.labels), rows, folded=True) if rows else None


def _setting(value: object) -> str:
    return "-" if value is None else str(value)
