"""Results to evidence: every figure per run, then its estimate over the runs of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tercet.report.estimate import estimate
from tercet.report.evidence import Cell, Evidence, Group
from tercet.report.hop import HOPS, hops_of
from tercet.report.metric import METRICS
from tercet.report.place import Place
from tercet.results.document import ArchitectureRecord, Results
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.results.slo import Slo
from tercet.results.summary import goodput, throughput

TIE_MARGIN = 0.03
"""What counts as a tie where the results do not say."""

WITH_ENCODERS = ("epd", "eppd")
"""Modes with workers that do nothing but encode."""

SLO_FACTOR = 2.0
"""Without an SLO, goodput asks for times within this factor of the best median at the lowest load."""


def gather(results: Results, slo: Slo | None = None) -> Evidence:
    """Return what a report is drawn from. `slo` is what goodput asks for; None: what it asked for when it was measured,
    else limits derived per workload."""
    architectures = known_architectures(results)
    devices = {architecture.label: architecture.devices for architecture in architectures}
    by_cell: dict[tuple[Place, str], list[RunRecord]] = {}
    for run in results.runs:
        by_cell.setdefault((Place(run.workload, run.load_kind, run.load), run.architecture), []).append(run)
    asked = {traffic.workload: traffic.slo for traffic in results.traffics}
    groups = list(dict.fromkeys(Group(place.workload, place.load_kind) for place, _ in by_cell))
    limits = {group: slo or asked.get(group.workload) for group in groups}
    slos = {group: limit or _derived(group, by_cell) for group, limit in limits.items()}
    order = list(devices)
    cells = tuple(
        _cell(place, label, devices[label], runs, slos[Group(place.workload, place.load_kind)])
        for (place, label), runs in sorted(
            by_cell.items(),
            key=lambda item: (
                groups.index(Group(item[0][0].workload, item[0][0].load_kind)),
                item[0][0].load,
                order.index(item[0][1]),
            ),
        )
    )
    margin = results.method.tie_margin if results.method is not None else TIE_MARGIN
    return Evidence(architectures, cells, slos, _source(list(limits.values())), margin)


def known_architectures(results: Results) -> tuple[ArchitectureRecord, ...]:
    """Return the architectures that ran; one that no record describes gets one that claims nothing but a device."""
    described = {architecture.label: architecture for architecture in results.architectures}
    ran = {run.architecture: run.mode for run in results.runs}
    return (
        *(architecture for label, architecture in described.items() if label in ran),
        *(ArchitectureRecord(label, mode, "", {}, 1, {}, {}) for label, mode in ran.items() if label not in described),
    )


def run_figures(run: RunRecord, devices: int, slo: Slo) -> dict[str, float]:
    """Return the figures of one run by metric key; those that it has nothing to say about are absent.

    Of a run with a steady window all of them are of that window: neither the ramp nor the last answers count.
    """
    figures: dict[str, float] = {}
    ok = _answered(run)
    if run.measured:
        figures["success"] = len(ok) / len(run.measured)
    requests_per_s, tokens_per_s = throughput(run)
    figures["requests_per_s"] = requests_per_s
    figures["tokens_per_s"] = tokens_per_s
    figures["device_rate"] = tokens_per_s / devices
    figures["goodput"] = goodput(run, slo)
    ttft = [request.ttft_ms for request in ok]
    tpot = [value for request in ok if (value := request.tpot_ms) is not None]
    e2e = [request.e2e_ms for request in ok]
    for name, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        if values:
            p50, p99 = np.percentile(values, [50, 99])
            figures |= {f"{name}_p50": float(p50), f"{name}_p99": float(p99)}
    if e2e:
        figures["e2e_mean"] = float(np.mean(e2e))
    if tpot and figures["tpot_p50"] > 0:
        figures["user_rate"] = 1e3 / figures["tpot_p50"]
    first = [request.ttft_ms for request in ok if request.turn == 1]
    later = [request.ttft_ms for request in ok if request.turn > 1]
    if first:
        figures["ttft_first"] = float(np.median(first))
    if later:
        figures["ttft_later"] = float(np.median(later))
    return figures


def _answered(run: RunRecord) -> list[RequestRecord]:
    return [request for request in run.measured if request.ok]


def _source(limits: Sequence[Slo | None]) -> str:
    derived = f"{SLO_FACTOR:g} times the best median at the lowest load"
    if not any(limits):
        return derived
    return "as asked" if all(limits) else f"as asked where limits were given, else {derived}"


def _derived(group: Group, by_cell: Mapping[tuple[Place, str], Sequence[RunRecord]]) -> Slo:
    mine = {key: runs for key, runs in by_cell.items() if Group(key[0].workload, key[0].load_kind) == group}
    lowest = min(place.load for place, _ in mine)
    medians: dict[str, list[float]] = {"ttft": [], "tpot": []}
    for (place, _), runs in mine.items():
        if place.load != lowest:
            continue
        ok = [request for run in runs for request in _answered(run)]
        ttft = [request.ttft_ms for request in ok]
        tpot = [value for request in ok if (value := request.tpot_ms) is not None]
        for name, values in (("ttft", ttft), ("tpot", tpot)):
            if values:
                medians[name].append(float(np.median(values)))
    limits = {name: SLO_FACTOR * min(values) if values else None for name, values in medians.items()}
    return Slo(limits["ttft"], limits["tpot"])


def _cell(place: Place, label: str, devices: int, runs: Sequence[RunRecord], slo: Slo) -> Cell:
    valid = [run for run in runs if not run.invalid] or list(runs)
    figures = [run_figures(run, devices, slo) for run in valid]
    estimates = {
        metric.key: found
        for metric in METRICS
        if (found := estimate([each[metric.key] for each in figures if metric.key in each], metric)) is not None
    }
    foreign = [run.foreign_cores for run in runs if run.foreign_cores is not None]
    return Cell(
        place=place,
        architecture=label,
        devices=devices,
        runs=len(runs),
        invalid_runs=sum(run.invalid for run in runs),
        requests=sum(len(run.requests) for run in runs),
        ok=sum(len(run.finished) for run in runs),
        estimates=estimates,
        hops_ms=_hops(valid),
        busy=_busy(valid),
        health=_worst([run.client for run in runs]),
        foreign_cores=max(foreign, default=None),
        reasons=tuple(dict.fromkeys(reason for run in runs for reason in run.invalid_reasons)),
    )


def _hops(runs: Sequence[RunRecord]) -> dict[str, float]:
    """Return the mean milliseconds of every hop that took any time, over the requests whose servers told."""
    told = [hops for run in runs for request in _answered(run) if (hops := hops_of(request))]
    means = {hop: sum(hops[hop] for hops in told) / len(told) for hop in HOPS} if told else {}
    return {hop: mean for hop, mean in means.items() if mean > 0}


def _busy(runs: Sequence[RunRecord]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for run in runs:
        for stage in run.stages:
            # Who could encode as well, and was sent no picture, has no idle encoder.
            if stage.stage == "encode" and stage.busy_fraction == 0 and run.mode not in WITH_ENCODERS:
                continue
            found.setdefault(stage.stage, []).append(stage.busy_fraction)
    return {stage: float(np.mean(values)) for stage, values in found.items()}


def _worst(healths: Sequence[ClientHealth]) -> ClientHealth:
    worst = max(healths, key=lambda health: health.lateness_ms_p99)
    return replace(
        worst,
        lateness_ms_max=max(health.lateness_ms_max for health in healths),
        loop_lag_ms_p99=max(health.loop_lag_ms_p99 for health in healths),
        loop_lag_ms_max=max(health.loop_lag_ms_max for health in healths),
        cpu_fraction=max(health.cpu_fraction for health in healths),
        saturated=any(health.saturated for health in healths),
        reasons=tuple(dict.fromkeys(reason for health in healths for reason in health.reasons)),
    )
