"""Predicted beside measured: errors, and whether the right one wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

MARGIN = 0.10
"""Two measured figures nearer than this are a tie, and nobody's win."""
TARGETS = {"ttft": 0.20, "tpot": 0.05, "e2e": 0.10, "throughput": 0.10}
"""Median relative errors."""
WINNERS = 0.90
"""Share of the winners outside the margin."""
LOWER = ("ttft", "tpot", "e2e", "duration")


@dataclass(frozen=True, slots=True)
class Point:
    """One architecture at one load: `place` names workload and load, shared by those compared with each other."""

    place: str
    name: str
    measured: Mapping[str, float]
    predicted: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Winner:
    """Two architectures of one place by one metric, the measured winner first, with both ratios loser : winner."""

    place: str
    metric: str
    names: tuple[str, str]
    measured: float
    predicted: float

    @property
    def right(self) -> bool:
        """Whether the prediction names the same winner."""
        return self.predicted > 1.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A data set's figures."""

    title: str
    points: Sequence[Point]
    notes: Sequence[str] = ()
    metrics: Sequence[str] = field(default=("ttft", "tpot", "e2e", "throughput"))

    def errors(self, metric: str) -> list[float]:
        """Return the relative errors, predicted / measured - 1, of all points that have the metric."""
        return [
            point.predicted[metric] / point.measured[metric] - 1
            for point in self.points
            if point.measured.get(metric) and metric in point.predicted
        ]

    def median(self, metric: str) -> float:
        """Return the median of the errors' sizes."""
        return float(np.median(np.abs(self.errors(metric))))

    def p90(self, metric: str) -> float:
        """Return the 90th percentile of the errors' sizes."""
        return float(np.percentile(np.abs(self.errors(metric)), 90))

    def winners(self, margin: float = MARGIN) -> list[Winner]:
        """Return every pair of one place whose measured gap is beyond the margin."""
        return [each for each in _pairs(self.points, self.metrics) if each.measured > 1 + margin]

    def right_share(self) -> float:
        """Return the share of right winners; 1 when there is none to be right about."""
        winners = self.winners()
        return sum(each.right for each in winners) / len(winners) if winners else 1.0


def _pairs(points: Sequence[Point], metrics: Iterable[str]) -> list[Winner]:
    found = []
    places = dict.fromkeys(point.place for point in points)
    for place in places:
        here = [point for point in points if point.place == place]
        for one, other in combinations(here, 2):
            for metric in metrics:
                if not (one.measured.get(metric) and other.measured.get(metric)):
                    continue
                if metric not in one.predicted or metric not in other.predicted:
                    continue
                ratio = other.measured[metric] / one.measured[metric]
                first, second = (one, other) if (ratio > 1) == (metric in LOWER) else (other, one)
                sides = [first, second] if metric in LOWER else [second, first]
                found.append(
                    Winner(
                        place,
                        metric,
                        (first.name, second.name),
                        sides[1].measured[metric] / sides[0].measured[metric],
                        sides[1].predicted[metric] / sides[0].predicted[metric],
                    )
                )
    return found


def print_judgement(judgement: Judgement, *, worst: int = 5, details: bool = False) -> None:
    """Print the figures of a data set, and where they are wrong."""
    print(f"\n{judgement.title}: {len(judgement.points)} points")
    for metric in judgement.metrics:
        if errors := judgement.errors(metric):
            target = f"  target {TARGETS[metric]:.0%}" if metric in TARGETS and len(errors) > 2 else ""
            print(
                f"  {metric:10} median {judgement.median(metric):6.1%}  p90 {judgement.p90(metric):6.1%}  "
                f"bias {float(np.median(errors)):+6.1%}{target}"
            )
    winners = judgement.winners()
    right = sum(each.right for each in winners)
    share = f", {right / len(winners):.0%}" if winners else ""
    print(f"  winners    {right} of {len(winners)} right where the measured gap exceeds {MARGIN:.0%}{share}")
    for each in winners:
        if not each.right:
            print(
                f"    wrong: {each.place}, {each.metric}: {each.names[0]} beats {each.names[1]} by "
                f"{each.measured - 1:.0%}, predicted {each.predicted - 1:+.0%}"
            )
    rows = [(abs(error), point, metric) for metric in judgement.metrics for error, point in _each(judgement, metric)]
    for size, point, metric in sorted(rows, key=lambda row: -row[0])[: len(rows) if details else worst]:
        measured, predicted = point.measured[metric], point.predicted[metric]
        print(f"    off by {size:.0%}: {point.place}, {point.name}, {metric}: {predicted:.5g} for {measured:.5g}")
    for note in judgement.notes:
        print(f"  {note}")


def _each(judgement: Judgement, metric: str) -> list[tuple[float, Point]]:
    return [
        (point.predicted[metric] / point.measured[metric] - 1, point)
        for point in judgement.points
        if point.measured.get(metric) and metric in point.predicted
    ]
