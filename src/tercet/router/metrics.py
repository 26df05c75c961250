"""What the router counts, for Prometheus and for /status."""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from tercet.router.exposition import pieces
from tercet.router.instruments import ROUTER, WHERE, WORKER, Count, Spread, named_all
from tercet.router.span import ENCODE, FIRST_TOKEN, HANDOFF, PREFILL, QUEUE, STREAM, Span

if TYPE_CHECKING:
    from tercet.router.account import Account
    from tercet.router.record import RequestRecord

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
OWN_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
ROUNDING_TOKENS = 32
"""A cache holds whole blocks, and an answer's last token never: so much off what was expected is no surprise, nor is
the tenth of a prompt whose tokens were estimated."""


Counts = dict[str, Sequence[tuple[tuple[str, ...], Any]]]
"""Counts by instrument, each with its labels."""
_PATHS = "paths"
_WHERE = ("mode", WORKER, "turn")


class RouterMetrics(Collector):
    """Counters and histograms of one router. `clear` starts all of them again from zero."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything counted so far."""
        self.requests = Count("requests", "Requests for generation by HTTP status; 499: client left", "mode", "status")
        self.routes = Count("routes", "Routes taken: split (through P), direct, fallback", "mode", "kind")
        self.retries = Count("retries", "Routes given up for another before the first byte", "reason")
        self.breakers = Count("breaker_opened", "Breakers opened after failures in a row", WHERE)
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
        self.reloads = Count("reloads", "Changes of what sources of workers say: followed, refused", "result")
        self.stream_failures = Count("stream_failures", "Streams that broke after their first byte", "mode")
        self.prompt_tokens = Count(
            "prefix_prompt_tokens", "Prompt tokens of requests whose worker said how many it found cached", *_WHERE
        )
        self.cached_tokens = Count("prefix_cached_tokens", "Of these, those found cached", *_WHERE)
        self.expected_tokens = Count("prefix_expected_tokens", "Of these, those expected to be", *_WHERE)
        self.predictions = Count(
            "prefix_predictions", "Expected against cached tokens: right, too_high, too_low", "mode", WORKER, "result"
        )
        self.time_to_first_byte = Spread(
            "time_to_first_byte_seconds", "From the request to the answer's first byte", SECONDS, *_WHERE
        )
        self.duration = Spread("duration_seconds", "From the request to the answer's end", SECONDS, *_WHERE)
        self.own_time = Spread("own_seconds", "Time to the first byte spent in the router itself", OWN_SECONDS, "mode")
        self.token_time = Spread(
            "time_per_output_token_seconds",
            "A stream's time by token, the first apart",
            TOKEN_SECONDS,
            *_WHERE,
        )
        self.phases = {
            phase: Spread(f"{phase}_seconds", text, SECONDS, *_WHERE)
            for phase, text in (
                (QUEUE, "Waits, for room in the fleet (worker: router) or in a worker that says so"),
                (ENCODE, "Encode legs, and encoding by the worker that prefills"),
                (PREFILL, "Prefill legs without their wait, and prefills by the worker that decodes"),
                (HANDOFF, "Fetching the blocks, as decode workers say"),
                (FIRST_TOKEN, "The rest of decode legs up to their first byte"),
            )
        }
        self._paths: dict[str, Tally[str]] = defaultdict(Tally)

    def routed(self, mode: str, route: str, kind: str) -> None:
        """Count a route taken."""
        self.routes.values[mode, kind] += 1
        self._paths[mode][route] += 1

    def placed(self, mode: str, encoded: int, inline: int, named: int) -> None:
        """Count the pictures of a route taken."""
        for way, count in (("encoded", encoded), ("inline", inline), ("named", named)):
            self.pictures.values[(mode, way)] += count

    def ended(self, ended: Account | RequestRecord) -> None:
        """Count a request that is over."""
        mode, turn, route = ended.mode, ended.turn, ended.route
        self.requests.values[mode, str(ended.status)] += 1
        stream: Span | None = None
        for span in ended.spans:
            phase, worker, start_ns, end_ns, error = span
            if phase is STREAM:
                stream = span
            elif error is None:
                self.phases[phase].add((mode, worker or ROUTER, turn), (end_ns - start_ns) / 1e9)
        if ended.status != 200 or route is None:
            return
        where = (mode, route.decode.label, turn)
        self.duration.add(where, (ended.ended_ns - ended.received_ns) / 1e9)
        if stream is not None and ended.stream:
            tokens = ended.output_tokens
            if tokens is not None and tokens > 1:
                self.token_time.add(where, (stream.end_ns - stream.start_ns) / 1e9 / (tokens - 1))
        prompt, cached, expected = ended.prompt_tokens, ended.cached_tokens, ended.expected_cached_tokens
        if prompt is not None and cached is not None and expected is not None:
            if route.prefill is not None:
                where = (mode, route.prefill.label, turn)
            self.prompt_tokens.values[where] += prompt
            self.cached_tokens.values[where] += cached
            self.expected_tokens.values[where] += expected
            off = expected - cached
            right = -ROUNDING_TOKENS <= off <= ROUNDING_TOKENS or abs(off) <= prompt // 10
            self.predictions.values[mode, where[1], "right" if right else "too_high" if off > 0 else "too_low"] += 1

    def first_byte(self, mode: str, worker: str, turn: str, seconds: float, own_seconds: float) -> None:
        """Note how long an answer's first byte took."""
        self.time_to_first_byte.add((mode, worker, turn), seconds)
        self.own_time.add((mode,), own_seconds)

    def keep(self, workers: Container[str]) -> None:
        """Forget what is said of other workers than these: they have left. Who gets such a label later may begin with
        its counts, which go on or start again from zero as any counter may."""
        for metric in self._all():
            metric.keep(workers)
        for tally in self._paths.values():
            for path in [path for path in tally if not named_all(path, workers)]:
                del tally[path]

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

    def moved(self) -> Counts:
        """Return everything counted, to be added to another's counts; here it starts again from zero."""
        named = {name: list(metric.values.items()) for name, metric in self._named() if metric.values}
        paths = [((mode, path), count) for mode, tally in self._paths.items() for path, count in tally.items()]
        self.clear()
        return {**named, _PATHS: paths}

    def absorb(self, counts: Counts) -> None:
        """Add what another counted."""
        for name, metric in self._named():
            for labels, value in counts.get(name, ()):
                metric.absorb(labels, value)
        for (mode, path), count in counts.get(_PATHS, ()):
            self._paths[mode][path] += count

    def collect(self) -> Iterator[Metric]:
        """Yield everything counted, for Prometheus."""
        for metric in self._all():
            yield metric.family()

    def _all(self) -> Iterator[Count | Spread]:
        return (metric for _, metric in self._named())

    def _named(self) -> Iterator[tuple[str, Count | Spread]]:
        for name, metric in vars(self).items():
            if isinstance(metric, Count | Spread):
                yield name, metric
        yield from self.phases.items()

    def pieces(self, *others: Collector) -> Iterator[bytes]:
        """Yield everything, and what `others` collect, in Prometheus' text format, about a millisecond's work at a
        time."""
        own = (part for metric in self._all() for part in metric.parts())
        return pieces(chain(own, *(collector.collect() for collector in others)))

    def render(self, *others: Collector) -> bytes:
        """Return the same as a whole."""
        return b"".join(self.pieces(*others))


def _outcome(status: int) -> str:
    if status == 499:
        return "gone"
    return "ok" if status < 400 else "refused" if status < 500 else "failed"
