"""`qps_crossover_analysis.json`: ratios, who is better where, and the recommendations, for programs."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from tercet.report.evidence import Evidence, Group
from tercet.report.headline import headline
from tercet.report.metric import TTFT_P50
from tercet.report.place import Place
from tercet.report.recommend import recommendations
from tercet.results.codec import encode
from tercet.results.curve import RatioCurve, RatioPoint, Region
from tercet.results.document import Results


def primary_curves(results: Results) -> tuple[RatioCurve, ...]:
    """Return the curves of the metrics that a winner may be named for; all of them where results name none."""
    primary = results.method.primary if results.method is not None else ()
    return tuple(curve for curve in results.curves if not primary or curve.metric in primary)


def drawn_curves(results: Results, evidence: Evidence) -> tuple[RatioCurve, ...]:
    """Return the curves to draw: those judged, and of a workload with none the ratios of medians, all undecided."""
    judged = primary_curves(results)
    known = {Group(curve.workload, curve.load_kind) for curve in judged}
    return (
        *judged,
        *(curve for group in evidence.groups if group not in known for curve in _unjudged(evidence, group)),
    )


def crossover_analysis(results: Results, evidence: Evidence, load_kind: str) -> dict[str, Any]:
    """Return the analysis of the groups of one kind of load, JSON-able."""
    groups = [group for group in evidence.groups if group.load_kind == load_kind]
    curves = [curve for curve in results.curves if curve.load_kind == load_kind]
    return {
        "verdict": headline(results, evidence),
        "load_kind": load_kind,
        "tie_margin": evidence.tie_margin,
        "architectures": list(evidence.labels),
        "unequal_devices": evidence.unequal,
        "workloads": {
            group.workload: {
                "loads": list(evidence.loads(group)),
                "crossovers": [_curve(encode(curve)) for curve in curves if curve.workload == group.workload],
                "improvements": [
                    encode(each)
                    for each in results.improvements
                    if (each.workload, each.load_kind) == (group.workload, load_kind)
                ],
                "recommendations": [
                    {"load": row.place.load, "level": row.level, "best": row.best, "why": row.why}
                    for row in recommendations(results, evidence, group)
                ],
            }
            for group in groups
        },
    }


def _curve(curve: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in curve.items() if name not in ("workload", "load_kind")}


def _unjudged(evidence: Evidence, group: Group) -> list[RatioCurve]:
    """Return a group's ratios of median TTFT without intervals: too little was measured to judge any."""
    found = []
    for first, second in combinations(evidence.labels, 2):
        points = []
        for load in evidence.loads(group):
            place = Place(group.workload, group.load_kind, load)
            cells = [evidence.cell(place, label) for label in (first, second)]
            values = [each.value for cell in cells if cell is not None and (each := cell.get(TTFT_P50)) is not None]
            if len(values) == 2 and min(values) > 0:
                ratio = values[0] / values[1]
                blocks = min(cell.runs for cell in cells if cell is not None)
                points.append(RatioPoint(load, ratio, ratio, ratio, blocks))
        if points:
            regions = (Region(points[0].load, points[-1].load, None),)
            found.append(
                RatioCurve(
                    group.workload, group.load_kind, TTFT_P50.key, TTFT_P50.title, True, first, second, tuple(points),
                    regions, "undecided", "not judged: too few valid blocks for an interval",
                )
            )  # fmt: skip
    return found
