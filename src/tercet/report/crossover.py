"""`qps_crossover_analysis.json`: ratios, who is better where, and the recommendations, for programs."""

from __future__ import annotations

from typing import Any

from tercet.report.evidence import Evidence
from tercet.report.headline import headline
from tercet.report.recommend import recommendations
from tercet.results.codec import encode
from tercet.results.curve import RatioCurve
from tercet.results.document import Results


def primary_curves(results: Results) -> tuple[RatioCurve, ...]:
    """Return the curves of the metrics that a winner may be named for; all of them where results name none."""
    primary = results.method.primary if results.method is not None else ()
    return tuple(curve for curve in results.curves if not primary or curve.metric in primary)


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
