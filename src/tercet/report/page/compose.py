"""Results to the page's document: verdict, recommendations, cards, sections and how to measure it again."""

from __future__ import annotations

import shlex

from tercet.report.conclusion import conclusions
from tercet.report.crossover import drawn_curves
from tercet.report.evidence import Evidence, complexity
from tercet.report.headline import headline
from tercet.report.metric import (
    E2E_MEAN,
    E2E_P50,
    E2E_P99,
    REQUESTS,
    SUCCESS,
    TOKENS,
    TPOT_P50,
    TPOT_P99,
    TTFT_P50,
    TTFT_P99,
)
from tercet.report.page.gallery import Gallery
from tercet.report.page.grids import health_grid, interference_grid, recommendation_grid
from tercet.report.page.origin import architecture_grid, machine_grid, settings_grid, traffic_grid
from tercet.report.page.parts import Card, Document, Key, Section
from tercet.report.recommend import recommendations
from tercet.report.usefulness import usefulness
from tercet.results.document import SIMULATED, Results

MAX_PANELS = 24
"""Pictures of one section."""

WARNING_WORDS = ("WARNING", "WRONG")


def compose(
    results: Results, evidence: Evidence, extra_warnings: tuple[str, ...] = (), *, max_panels: int = MAX_PANELS
) -> Document:
    """Return the page's content. Draws every picture, at most `max_panels` a section, which takes seconds."""
    gallery = Gallery(evidence, max_panels)
    said = conclusions(results)
    settings = settings_grid(evidence)
    return Document(
        title=f"{results.model}: {', '.join(evidence.labels)}",
        verdict=headline(results, evidence),
        facts=_facts(results, evidence),
        warnings=(*extra_warnings, *_warnings(results, evidence), *(line for line in said if _grave(line))),
        recommendations=tuple(
            recommendation_grid(group, recommendations(results, evidence, group))
            for group in evidence.groups
            if results.verdicts
        ),
        cards=_cards(results, evidence, gallery.keys) if results.verdicts else (),
        sections=_sections(results, evidence, gallery),
        notes=tuple(line for line in said if not _grave(line)),
        commands=_commands(results),
        origin=(
            architecture_grid(evidence),
            traffic_grid(results),
            machine_grid(results),
            *((settings,) if settings is not None else ()),
        ),
    )


def _sections(results: Results, evidence: Evidence, gallery: Gallery) -> tuple[Section, ...]:
    against_load = gallery.against_load
    found = (
        against_load(
            "ttft", "Time to first token", "TTFT", "From sending to the first non-empty content.", (TTFT_P50, TTFT_P99)
        ),
        against_load(
            "tpot", "Time per output token", "TPOT", "(E2E - TTFT) / (tokens - 1) of a request.", (TPOT_P50, TPOT_P99)
        ),
        against_load(
            "e2e", "End-to-end latency", "E2E", "From sending to the last content.", (E2E_P50, E2E_P99), (E2E_MEAN,)
        ),
        against_load(
            "throughput", "Throughput", "Throughput", "Whole answers over the wall time of a run.", (REQUESTS, TOKENS)
        ),
        gallery.bars(),
        against_load(
            "success",
            "Success rate",
            "Success",
            "Requests answered whole, with exactly the asked length.",
            (SUCCESS,),
        ),
        gallery.ratios(drawn_curves(results, evidence)),
        gallery.turns(results.improvements),
        gallery.pareto(),
        gallery.hops(),
        gallery.goodput(),
        _interference(results),
        _health(evidence),
    )
    return tuple(section for section in found if section is not None)


def _cards(results: Results, evidence: Evidence, keys: tuple[Key, ...]) -> tuple[Card, ...]:
    by_name = {key.name: key for key in keys}
    records = {record.label: record for record in evidence.architectures}
    found = []
    for each in usefulness(results, evidence):
        record = records[each.architecture]
        parts = [record.short_form, f"{record.devices} device{'' if record.devices == 1 else 's'}"]
        if complexity(record) != "-":
            parts.append(f"complexity {complexity(record).lower()}")
        about = ", ".join(part for part in parts if part)
        found.append(Card(by_name[each.architecture], about, each.useful, each.not_useful, each.sensitivity))
    return tuple(found)


def _facts(results: Results, evidence: Evidence) -> tuple[tuple[str, str], ...]:
    runs = len(results.runs)
    invalid = sum(run.invalid for run in results.runs)
    devices = sorted({record.devices for record in evidence.architectures})
    facts = [
        ("Model", results.model),
        ("Workloads", ", ".join(dict.fromkeys(group.workload for group in evidence.groups))),
        ("Devices", f"{devices[0]} each" if len(devices) == 1 else "UNEQUAL: " + ", ".join(map(str, devices))),
        ("Runs", f"{runs}, {invalid} INVALID" if invalid else f"{runs}, all valid"),
        ("Requests", f"{sum(cell.requests for cell in evidence.cells):,}"),
        ("Predicted" if results.kind == SIMULATED else "Measured", results.created_at[:10]),
    ]
    if results.method is not None:
        facts.insert(3, ("Paired blocks", f"{results.method.blocks}"))
    return tuple(facts)


def _warnings(results: Results, evidence: Evidence) -> tuple[str, ...]:
    found = []
    if results.kind == SIMULATED:
        found.append("These figures are predicted, not measured: no request was sent to a server.")
    if results.interrupted:
        found.append("The measurement was stopped early: only what was measured until then is here.")
    invalid = [cell for cell in evidence.cells if cell.invalid_runs]
    if invalid:
        runs = sum(cell.invalid_runs for cell in invalid)
        where = "; ".join(f"{cell.architecture} in {cell.place.title(True)}" for cell in invalid[:4])
        more = f" and {len(invalid) - 4} more" if len(invalid) > 4 else ""
        found.append(f"{runs} runs are INVALID and marked ✕: {where}{more}.")
    if evidence.unequal:
        counts = ", ".join(f"{record.label} {record.devices}" for record in evidence.architectures)
        found.append(f"The architectures had UNEQUAL devices: {counts}. Compare output per device, not latencies.")
    return tuple(found)


def _grave(line: str) -> bool:
    return line.startswith(WARNING_WORDS)


def _interference(results: Results) -> Section | None:
    if not results.interference:
        return None
    words = ("The gaps between the pieces of running answers, before and while a long prompt prefills.",)
    grids = (interference_grid(results.interference),)
    return Section("interference", "Prefill against decode", "Interference", words, grids=grids)


def _health(evidence: Evidence) -> Section:
    bad, runs = (sum(getattr(cell, name) for cell in evidence.cells) for name in ("invalid_runs", "runs"))
    words = (
        f"{bad} of {runs} runs are INVALID: they are no evidence, and marked ✕ in every picture."
        if bad
        else f"All {runs} runs are valid.",
        "A run is invalid when its send delay p99 exceeds the larger of 5 ms and 5% of its median TTFT, or when a "
        "cache that should have been empty was warm.",
    )
    return Section("health", "The client's own health", "Health", words, grids=(health_grid(evidence),))


def _commands(results: Results) -> tuple[str, ...]:
    commands = [source.command for source in results.sources] or [results.command]
    return tuple(dict.fromkeys(shlex.join(command) for command in commands))
