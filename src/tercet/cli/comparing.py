"""What `tercet compare` does with its flags: loads read, a journal found, the comparison run or files merged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from tercet.cli import traffic_options as flags
from tercet.core.digits import count_in
from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals

if TYPE_CHECKING:
    from tercet.compare.architecture import Architecture
    from tercet.compare.journal import Journal
    from tercet.compare.spec import CompareSpec
    from tercet.core.topology import Topology
    from tercet.results.slo import Slo
    from tercet.traffic.scripts import Dataset
    from tercet.traffic.spec import LoadKind

DEFAULT_QPS = "0.5"
AUTO = "auto"


def run(spec: CompareSpec, output: Path, cache_dir: Path | None, resume: str) -> int:
    """Run a comparison, or what is left of one, publish it, and return the exit code."""
    from tercet.bench.drive import drive
    from tercet.cli.measuring import command_line, finish, run_measured
    from tercet.cli.start_view import start_view
    from tercet.compare.run import Comparison
    from tercet.compare.tables import print_comparison
    from tercet.launch.local import LocalDeployment
    from tercet.launch.model import prepare_model
    from tercet.report.progress import narrator
    from tercet.report.terminal import console_for_output
    from tercet.results.file import require_writable

    require_writable(output)
    console = console_for_output(stderr=True)
    journal = journal_for(spec, output, resume)
    comparison = Comparison(
        spec,
        deploy=lambda topology: LocalDeployment(topology, cache_dir=cache_dir),
        drive=drive,
        narrator=narrator(console),
        journal=journal,
        command=command_line(),
    )
    if journal.kept.runs:
        console.print(f"going on with {journal.path}: {len(journal.kept.runs)} runs are done", markup=False)
    for architecture in spec.architectures:
        if architecture.topology is not None and (idle := architecture.topology.idle):
            console.print(f"{architecture.label}: {idle}", markup=False)
    with start_view(console) as view:
        for topology in _models(spec.architectures):
            prepare_model(topology, cache_dir, view.model)
    outcome = run_measured(comparison.run())
    results = comparison.results(stopped_by=outcome.stopped_by) if comparison.runs else None
    if not outcome.stopped_by:
        code = finish(outcome, results, output, show=print_comparison)
        journal.remove()
        return code
    journal.close()
    if journal.kept.runs:
        console.print(f"to go on: the same command with --resume {journal.path}", markup=False, soft_wrap=True)
    return finish(outcome, results, output, show=print_comparison)


def merge(
    files: Sequence[str],
    output: Path,
    allow_unequal: bool,
    primary: Sequence[str],
    tie_margin: float,
    slo: Slo | None = None,
) -> int:
    """Join results files, publish the whole, return the exit code. Raises UsageError when they can't be compared.

    `slo` is what goodput asks for, whatever was given when they were measured.
    """
    from tercet.cli.measuring import command_line, nothing_else, publish
    from tercet.compare.merge import find_latest, load, merged
    from tercet.compare.tables import print_comparison

    paths = find_latest(output, slo) if list(files) == [AUTO] else [Path(name) for name in files]
    results = merged(
        [part.judged_by(slo) for part in load(paths)],
        allow_unequal=allow_unequal,
        primary=primary,
        tie_margin=tie_margin,
        command=command_line(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    publish(results, output, print_comparison, nothing_else)
    return 0 if results.answers is None or results.answers.passed else 1


def journal_for(spec: CompareSpec, output: Path, resume: str) -> Journal:
    """Return the journal to go on with, or a new one. Raises UsageError for one of another comparison."""
    from tercet.compare.journal import Journal
    from tercet.compare.run import plan_of

    plan = plan_of(spec)
    found = Journal.latest(output, plan) if resume == AUTO else Journal.read(Path(resume), plan) if resume else None
    if found is not None:
        return found
    # A server that was running before may hold the prompts of an earlier comparison.
    served = any(each.url is not None for each in spec.architectures)
    salt = spec.salt or (token_hex(4) if served else "")
    nonce = f"s{spec.seed}-{salt}" if salt else f"s{spec.seed}"
    return Journal.create(output, created_at=datetime.now(UTC).isoformat(timespec="seconds"), nonce=nonce, plan=plan)


def _models(architectures: Sequence[Architecture]) -> list[Topology]:
    """Return one topology of each model that has to be here before anything starts."""
    found = {
        (each.topology.model, each.topology.engine.random_weights, each.topology.engine.engine): each.topology
        for each in architectures
        if each.topology is not None
    }
    return list(found.values())


def parse_arrivals(arrivals: str, data: Dataset | None, *, loaded: bool) -> Arrivals:
    """Return how conversations come: as named, else at a data set's own times where it has some and no load is named
    (`loaded`). Raises UsageError."""
    if not arrivals:
        return Arrivals.TRACE if data is not None and data.timed and not loaded else Arrivals.POISSON
    pattern = flags.arrival_pattern(arrivals)
    if pattern is Arrivals.TRACE and loaded:
        raise UsageError("--arrivals trace takes its times from the data set: leave --qps and --concurrency out")
    return pattern


def parse_loads(qps: str, concurrency: str, *, pictures: bool) -> tuple[LoadKind, tuple[float, ...]]:
    """Read --qps and --concurrency: what the loads count, and they, ascending. Raises UsageError.

    A rate has the digits that files keep: whoever goes on with a journal must know its runs again.
    """
    from tercet.results.codec import DECIMALS
    from tercet.traffic.spec import LoadKind

    if pictures and not qps and not concurrency:
        concurrency = flags.IMAGE_LOADS
    if not concurrency:
        rates = [round(rate, DECIMALS) for rate in flags.parse_rates(qps or DEFAULT_QPS)]
        if any(not 0 < rate < float("inf") for rate in rates):
            raise UsageError(f"--qps {qps} is out of range: give numbers above 0")
        return LoadKind.QPS, tuple(sorted(rates))
    if qps:
        raise UsageError("--qps and --concurrency exclude each other: a load is a rate, or so many at a time")
    return LoadKind.CONCURRENCY, tuple(sorted(flags.parse_counts(concurrency, "--concurrency")))


def parse_url_devices(text: str) -> dict[str, int]:
    """Read `old=8,new=8`. Raises UsageError."""
    found: dict[str, int] = {}
    for part in split(text):
        label, _, count = part.partition("=")
        devices = count_in(count)
        if not devices:
            raise UsageError(f"--url-devices {part!r}: write LABEL=N, for instance old=8")
        found[label] = devices
    return found


def split(text: str) -> tuple[str, ...]:
    """Read `a, b`: the parts that aren't empty."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
