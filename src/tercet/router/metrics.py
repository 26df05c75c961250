"""What the router counts, for Prometheus and for /status."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
OWN_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5)
PREFIX = "tercet:router_"


class Count:
    """Counts by label values. As cheap as a dictionary: a request makes several of these."""

    __slots__ = ("_labels", "_name", "_text", "values")

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name, self._text, self._labels = name, text, labels
        self.values: Tally[tuple[str, ...]] = Tally()
        if not labels:
            self.values[()] = 0  # so that zero can be seen

    def add(self, *values: str) -> None:
        """Count one."""
        self.values[values] += 1

    def family(self) -> Metric:
        """Return the counts for Prometheus."""
        family = CounterMetricFamily(PREFIX + self._name, self._text, labels=self._labels)
        for values, count in self.values.items():
            family.add_metric(values, count)
        return family


class Spread:
    """A histogram by mode; values in seconds."""

    __slots__ = ("_bounds", "_name", "_text", "values")

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self.values: dict[str, list[float]] = defaultdict(lambda: [0.0] * (len(bounds) + 2))

    def add(self, mode: str, seconds: float) -> None:
        """Note one value."""
        row = self.values[mode]
        row[bisect_left(self._bounds, seconds)] += 1
        row[-1] += seconds

    def family(self) -> Metric:
        """Return the histogram for Prometheus: cumulative buckets, and the sum."""
        family = HistogramMetricFamily(PREFIX + self._name, self._text, labels=("mode",))
        for mode, row in self.values.items():
            total, buckets = 0.0, []
            for bound, count in zip((*map(str, self._bounds), "+Inf"), row, strict=False):
                total += count
                buckets.append((bound, total))
            family.add_metric((mode,), buckets, row[-1])
        return family


class RouterMetrics(Collector):
    """Counters and histograms of one router. `clear` starts all of them again from zero."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything counted so far."""
        self.requests = Count("requests", "Requests for generation by HTTP status; 499: client left", "mode", "status")
        self.routes = Count("routes", "Routes taken: split (through P), direct, fallback", "mode", "kind")
        self.retries = Count("retries", "Routes given up for another before the first byte", "reason")
        self.breakers = Count("breaker_opened", "Breakers opened after failures in a row", "where")
        self.releases = Count("releases", "Releases of blocks that no decode worker accepted, as they were told to P")
        self.handoff_expiries = Count("handoff_expiries", "Blocks left to the end of their lease", "reason")
        self.handoff_leaks = Count("handoff_leaks", "Releases that ended by a fault of the router")
        self.early_ends = Count("early_ends", "Answers that ended at the prefill worker", "mode")
        self.pictures = Count(
            "pictures",
            "Pictures sent to encode workers, inline to who prefills, or named to who holds them",
            "mode",
            "way",
        )
        self.encode_retries = Count("encode_retries", "Encode legs given up for another encode worker", "reason")
        self.encode_fallbacks = Count("encode_fallbacks", "Requests encoded where they prefill", "mode")
        self.images_needed = Count("images_needed", "Requests whose rank lacked a picture", "mode")
        self.wrong_index = Count("wrong_index", "Requests whose rank held far less of the prompt than believed", "mode")
        self.admissions = Count("admissions", "Requests that found no room: waited, timeout, full", "result")
        self.stream_failures = Count("stream_failures", "Streams that broke after their first byte", "mode")
        self.time_to_first_byte = Spread(
            "time_to_first_byte_seconds", "From the request to the answer's first byte", SECONDS
        )
        self.duration = Spread("duration_seconds", "From the request to the answer's end", SECONDS)
        self.queue_time = Spread("queue_seconds", "Wait for room, of requests that had to and got it", SECONDS)
        self.own_time = Spread("own_seconds", "Time to the first byte spent in the router itself", OWN_SECONDS)
        self._paths: dict[str, Tally[str]] = defaultdict(Tally)

    def routed(self, mode: str, route: str, kind: str) -> None:
        """Count a route taken."""
        self.routes.add(mode, kind)
        self._paths[mode][route] += 1

    def placed(self, mode: str, encoded: int, inline: int, named: int) -> None:
        """Count the pictures of a route taken."""
        for way, count in (("encoded", encoded), ("inline", inline), ("named", named)):
            self.pictures.values[(mode, way)] += count

    def finished(self, mode: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests.add(mode, str(status))
        if status == 200:
            self.duration.add(mode, seconds)

    def first_byte(self, mode: str, seconds: float, own_seconds: float) -> None:
        """Note how long an answer's first byte took."""
        self.time_to_first_byte.add(mode, seconds)
        self.own_time.add(mode, own_seconds)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return the counts per mode for /status."""
        result: dict[str, dict[str, Any]] = {}
        for (mode, status), count in self.requests.values.items():
            tally = result.setdefault(mode, Tally())
            tally["requests"] += count
            tally[_outcome(int(status))] += count
        for (mode, kind), count in self.routes.values.items():
            result.setdefault(mode, Tally())[kind] += count
        for mode, tally in result.items():
            tally["wrong_index"] = self.wrong_index.values[(mode,)]
            tally["early_ends"] = self.early_ends.values[(mode,)]
            if (mode, "encoded") in self.pictures.values:
                for way in ("encoded", "inline", "named"):
                    tally[f"pictures_{way}"] = self.pictures.values[(mode, way)]
                tally["encode_fallbacks"] = self.encode_fallbacks.values[(mode,)]
                tally["images_needed"] = self.images_needed.values[(mode,)]
            tally["routes"] = dict(sorted(self._paths[mode].items()))
        return result

    def collect(self) -> Iterator[Metric]:
        """Yield everything counted, for Prometheus."""
        for metric in vars(self).values():
            if isinstance(metric, Count | Spread):
                yield metric.family()

    def render(self, *others: Collector) -> bytes:
        """Return everything, and what `others` collect, in Prometheus' text format."""
        registry = CollectorRegistry()
        for collector in (self, *others):
            registry.register(collector)
        return generate_latest(registry)


def _outcome(status: int) -> str:
    if status == 499:
        return "gone"
    return "ok" if status < 400 else "refused" if status < 500 else "failed"
