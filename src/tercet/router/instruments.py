"""Counters and histograms as cheap as a dictionary: a request makes several of them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Container, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

PREFIX = "tercet:router_"
WORKER = "worker"
WHERE = "where"
"""A worker, or a pair of them: `P0>D0`."""
ROUTER = "router"
"""The worker of what happened in the router itself."""


class Count:
    """Counts by label values."""

    __slots__ = ("_labels", "_name", "_text", "values")

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name, self._text, self._labels = name, text, labels
        self.values: Tally[tuple[str, ...]] = Tally()
        if not labels:
            self.values[()] = 0  # so that zero can be seen

    def add(self, *values: str) -> None:
        """Count one."""
        self.values[values] += 1

    def absorb(self, labels: tuple[str, ...], count: int) -> None:
        """Add what another counted."""
        self.values[labels] += count

    def keep(self, workers: Container[str]) -> None:
        """Forget what is said of other workers than these."""
        for values in _others(self._labels, self.values, workers):
            del self.values[values]

    def parts(self) -> Iterator[Metric]:
        """Yield the counts for Prometheus."""
        yield self.family()

    def family(self) -> Metric:
        """Return the counts for Prometheus."""
        family = CounterMetricFamily(PREFIX + self._name, self._text, labels=self._labels)
        for values, count in self.values.items():
            family.add_metric(values, count)
        return family


class Spread:
    """A histogram by label values; its own values are in seconds."""

    __slots__ = ("_bounds", "_labels", "_name", "_text", "_zero", "values")

    def __init__(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> None:
        self._name, self._text, self._bounds, self._labels = name, text, bounds, labels
        self._zero = [0.0] * (len(bounds) + 2)
        self.values: dict[tuple[str, ...], list[float]] = {}

    def add(self, labels: tuple[str, ...], seconds: float) -> None:
        """Note one value."""
        row = self.values.get(labels)
        if row is None:
            row = self.values[labels] = self._zero.copy()
        row[bisect_left(self._bounds, seconds)] += 1
        row[-1] += seconds

    def absorb(self, labels: tuple[str, ...], row: Sequence[float]) -> None:
        """Add what another noted."""
        self.values[labels] = [mine + more for mine, more in zip(self.values.get(labels, self._zero), row, strict=True)]

    def keep(self, workers: Container[str]) -> None:
        """Forget what is said of other workers than these."""
        for values in _others(self._labels, self.values, workers):
            del self.values[values]

    def parts(self) -> Iterator[Metric]:
        """Yield the histogram for Prometheus, two rows of labels at a time."""
        rows = list(self.values.items())
        for at in range(0, max(1, len(rows)), 2):
            yield self._family(rows[at : at + 2])

    def family(self) -> Metric:
        """Return the histogram for Prometheus: cumulative buckets, and the sum."""
        return self._family(self.values.items())

    def _family(self, rows: Iterable[tuple[tuple[str, ...], list[float]]]) -> Metric:
        family = HistogramMetricFamily(PREFIX + self._name, self._text, labels=self._labels)
        for labels, row in rows:
            total, buckets = 0.0, []
            for bound, count in zip((*map(str, self._bounds), "+Inf"), row, strict=False):
                total += count
                buckets.append((bound, total))
            family.add_metric(labels, buckets, row[-1])
        return family


def _others(
    labels: tuple[str, ...], values: Iterable[tuple[str, ...]], workers: Container[str]
) -> list[tuple[str, ...]]:
    at = next((i for i, label in enumerate(labels) if label in (WORKER, WHERE)), None)
    if at is None:
        return []
    return [row for row in values if row[at] != ROUTER and not named_all(row[at], workers)]


def named_all(text: str, workers: Container[str]) -> bool:
    """True when all whom a label or a route (`E0+E1>P0>D0`) names are among `workers`."""
    return all(label in workers for label in re.split("[>+]", text))
