"""What `tercet top` shows: figures that follow from a router's answers, the latest and those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any

from tercet.router.span import PHASES, STREAM

LATEST_S = 60.0
RATE_S = 10.0
SPARK_POINTS = 20
MOST = 2000

Record = dict[str, Any]
Value = Callable[[Record], float | None]


def ttft_ms(record: Record) -> float | None:
    """Return a stream's time to its first byte; None for what failed, or was answered whole."""
    stream = _stream(record)
    return None if stream is None else float(stream["start_ms"])


def tpot_ms(record: Record) -> float | None:
    """Return the mean time of a stream's tokens after the first."""
    stream, tokens = _stream(record), record["output_tokens"]
    if stream is None or tokens is None or tokens < 2:
        return None
    return (float(stream["end_ms"]) - float(stream["start_ms"])) / (int(tokens) - 1)


def e2e_ms(record: Record) -> float | None:
    """Return how long an answer took; None for what was none."""
    return float(record["duration_ms"]) if record["status"] < 400 else None


def phase_ms(phase: str) -> Value:
    """Return what gives the time of one phase."""

    def value(record: Record) -> float | None:
        spans = [span for span in record["spans"] if span["phase"] == phase]
        if record["status"] >= 400 or not spans:
            return None
        return float(sum(span["end_ms"] - span["start_ms"] for span in spans))

    return value


LATENCIES: dict[str, Value] = {
    **{phase.replace("decode_", "").replace("_", " "): phase_ms(phase) for phase in PHASES if phase != STREAM},
    "TTFT": ttft_ms,
    "TPOT": tpot_ms,
    "E2E": e2e_ms,
}
"""Rows of the table of latencies."""


def quantile(values: list[float], share: float) -> float | None:
    """Return the `share` quantile, None of no values."""
    if not values:
        return None
    ordered = sorted(values)
    at = (len(ordered) - 1) * share
    low, high = ordered[floor(at)], ordered[ceil(at)]
    return low + (high - low) * (at - floor(at))


@dataclass(slots=True)
class Figures:
    """The latest answer of /status, the counts of those before, and records of /requests; times are the router's."""

    status: dict[str, Any] = field(default_factory=dict)
    counts: deque[tuple[float, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=600))
    records: dict[tuple[str, float], Record] = field(default_factory=dict)

    def take(self, status: dict[str, Any], records: list[Record]) -> int:
        """Take in one look; return how many records were new. A router that started anew makes an end of the old."""
        if self.status and status["uptime_s"] + 1 < self.status["uptime_s"]:
            self.counts.clear()
            self.records.clear()
        elif self.counts and _total(status["counts"], "requests") < _total(self.counts[-1][1], "requests"):
            self.counts.clear()  # counted from zero again
        self.status = status
        self.counts.append((float(status["time"]), status["counts"]))
        fresh = {(record["id"], record["started_at"]): record for record in reversed(records)}
        count = sum(key not in self.records for key in fresh)
        # More may have ended in a burst than were asked for: those missed come later than those after them.
        self.records = dict(sorted((self.records | fresh).items(), key=lambda kept: _ended(kept[1])))
        while len(self.records) > MOST:
            del self.records[next(iter(self.records))]
        return count

    def latest(self, count: int) -> list[Record]:
        """Return the latest records, the latest to end first."""
        return [record for record, _ in zip(reversed(self.records.values()), range(count), strict=False)]

    def within(self, seconds: float) -> Iterator[Record]:
        """Yield the records that ended so short a time ago."""
        since = self.counts[-1][0] - seconds
        return (record for record in self.records.values() if _ended(record) >= since)

    def rate(self, name: str, seconds: float = RATE_S) -> float | None:
        """Return how many requests a second were counted as `name` (requests, ok, failed); None at the first look."""
        before, now, passed = self._two(seconds)
        return None if passed <= 0 else max(0, _total(now, name) - _total(before, name)) / passed

    def rank_rates(self) -> dict[str, float]:
        """Return how many requests a second went through each rank, by its label."""
        before, now, passed = self._two(RATE_S)
        found: dict[str, float] = {}
        if passed <= 0:
            return found
        for mode, counts in now.items():
            earlier = before.get(mode, {}).get("routes", {})
            for route, count in counts.get("routes", {}).items():
                for label in route.replace("+", ">").split(">"):
                    found[label] = found.get(label, 0.0) + max(0, count - earlier.get(route, 0)) / passed
        return found

    def tokens_per_second(self) -> float | None:
        """Return the output tokens a second: answers, and the tokens that the latest ones had."""
        rate = self.rate("ok")
        known = [
            r["output_tokens"] for r in self.within(LATEST_S) if r["status"] < 400 and r["output_tokens"] is not None
        ]
        return None if rate is None else rate * (sum(known) / len(known) if known else 0.0)

    def failed_share(self) -> float | None:
        """Return the share of the last minute's requests that failed."""
        requests, failed = self.rate("requests", LATEST_S), self.rate("failed", LATEST_S)
        return failed / requests if requests and failed is not None else None

    def values(self, value: Value, seconds: float = LATEST_S) -> list[float]:
        """Return a figure of the latest records that have it."""
        return [number for record in self.within(seconds) if (number := value(record)) is not None]

    def series(self, value: Value) -> list[float | None]:
        """Return the medians of a figure over the last minute, in equal steps."""
        now, step = self.counts[-1][0], LATEST_S / SPARK_POINTS
        steps: list[list[float]] = [[] for _ in range(SPARK_POINTS)]
        for record in self.within(LATEST_S):
            at = SPARK_POINTS - 1 - max(0, int((now - _ended(record)) / step))
            if at >= 0 and (number := value(record)) is not None:
                steps[at].append(number)
        return [quantile(values, 0.5) for values in steps]

    def _two(self, seconds: float) -> tuple[dict[str, Any], dict[str, Any], float]:
        """Return the counts of about so long ago, or of the look before if that is older, the latest, and the time
        between; 0 at the first look."""
        *earlier, (at, now) = self.counts
        if not earlier:
            return now, now, 0.0
        then, before = next(((then, answer) for then, answer in earlier if then >= at - seconds), earlier[-1])
        return before, now, at - then


def _stream(record: Record) -> dict[str, Any] | None:
    if record["status"] >= 400 or not record["stream"]:
        return None
    # The last one: a rank that lacked a picture has answered too, before another attempt.
    return next((span for span in reversed(record["spans"]) if span["phase"] == STREAM and "error" not in span), None)


def _ended(record: Record) -> float:
    return float(record["started_at"]) + float(record["duration_ms"]) / 1000


def _total(counts: dict[str, Any], name: str) -> int:
    return sum(int(of_mode.get(name, 0)) for of_mode in counts.values())
