"""A worker's Prometheus metrics; vLLM's names where the same thing is meant."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tercet.engine.step_lag import BOUNDS_S as LAG_BOUNDS
from tercet.worker.encoded_picture import EncodedPicture
from tercet.worker.engine_client import EngineClient
from tercet.worker.wire import Origin

Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)

TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
GAP_BOUNDS = (
    *(0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
E2E_BOUNDS = (
    *(0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    *(60.0, 120.0, 240.0, 480.0, 960.0, 1920.0),
)
PICTURE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
REASONS = ("stop", "length", "abort", "error")

_GAUGES = (
    ("vllm:num_requests_running", "Sequences in the running batch", ("running",)),
    ("vllm:num_requests_waiting", "Sequences waiting for room or for KV", ("waiting", "waiting_remote", "preempted")),
    ("tercet:kv_blocks_total", "KV blocks of the pool", ("blocks_total",)),
    ("tercet:kv_blocks_in_use", "KV blocks owned by sequences", ("blocks_in_use",)),
    ("tercet:kv_blocks_held", "KV blocks of prefilled sequences whose ticket is out", ("blocks_held",)),
    ("tercet:kv_blocks_cached", "Unreferenced KV blocks kept for their prefix", ("blocks_cached",)),
    ("tercet:num_requests_held", "Prefilled sequences whose ticket is out", ("held",)),
)
_COUNTERS = (
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", "prefix_queries"),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache", "prefix_hits"),
    ("vllm:num_preemptions", "Preemptions by recompute", "preemptions"),
    ("tercet:remote_recomputes", "Tickets that could not be used; the prompt was computed again", "remote_recomputes"),
)
_IMAGE_GAUGES = (
    ("tercet:embedding_cache_bytes", "Bytes of embeddings that are kept or in use", "bytes"),
    ("tercet:embedding_blocks_in_use", "Blocks of embeddings that a ticket or a sequence needs", "blocks_in_use"),
    ("tercet:num_images_waiting", "Pictures that wait to be encoded", "waiting"),
    ("tercet:num_images_held", "Image tickets that are out", "held"),
)
_IMAGE_COUNTERS = (
    ("tercet:embedding_cache_hits", "Pictures whose embeddings were kept", "hits"),
    ("tercet:embedding_cache_misses", "Pictures that had to be encoded", "misses"),
    ("tercet:embedding_cache_joined", "Pictures that were being encoded for another request", "joined"),
    ("tercet:embedding_cache_evictions", "Embeddings given up for others", "evictions"),
    ("tercet:encoder_forward_images", "Pictures the encoder ran for", "encoded"),
    ("tercet:encoder_batches", "Batches the encoder ran", "batches"),
)


class Histogram:
    """Counts observations by upper bound; the last bucket has none."""

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value; a few hundred ns, as this is done for every token."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, values up to it), as Prometheus wants them."""
        return _buckets(self.bounds, self._counts)


def _buckets(bounds: Sequence[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    names = [*map(str, bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))


class RankFigures:
    """What a front observes of one rank's requests. Plain numbers: they change with every token."""

    __slots__ = ("_ends", "_prompt", "_sources", "e2e", "gaps", "generated", "ttft")

    def __init__(self) -> None:
        self.generated = 0
        self.ttft, self.gaps, self.e2e = Histogram(TTFT_BOUNDS), Histogram(GAP_BOUNDS), Histogram(E2E_BOUNDS)
        self._prompt = 0
        self._sources = dict.fromkeys(SOURCES, 0)
        self._ends = dict.fromkeys(REASONS, 0)

    def first_token(self, prompt_tokens: int, origin: Origin, ttft_s: float) -> None:
        """Record a sequence's first token."""
        self.generated += 1
        self.ttft.observe(ttft_s)
        self._prompt += prompt_tokens
        self._sources["local_compute"] += prompt_tokens - origin.cached_tokens - origin.external_tokens
        self._sources["local_cache_hit"] += origin.cached_tokens
        self._sources["external_kv_transfer"] += origin.external_tokens

    def token_gap(self, seconds: float) -> None:
        """Record a later token, and the time since the one before it."""
        self.generated += 1
        self.gaps.observe(seconds)

    def finished(self, reason: str, e2e_s: float) -> None:
        """Record the end of a choice: stop, length, abort (its client left) or error."""
        self._ends[reason] += 1
        self.e2e.observe(e2e_s)

    def counters(self) -> Iterator[tuple[str, str, dict[str, str], int]]:
        """Yield name, meaning, labels and value of every counter."""
        yield "vllm:prompt_tokens", "Prompt tokens", {}, self._prompt
        yield "vllm:generation_tokens", "Generated tokens", {}, self.generated
        for source, count in self._sources.items():
            yield "vllm:prompt_tokens_by_source", "Prompt tokens by where their KV is from", {"source": source}, count
        for reason, count in self._ends.items():
            yield "vllm:request_success", "Choices by how they ended", {"finished_reason": reason}, count


class PictureFigures:
    """How long pictures took on their way through this front."""

    __slots__ = ("decode", "encode", "fetch")

    def __init__(self) -> None:
        self.fetch, self.decode, self.encode = (Histogram(PICTURE_BOUNDS) for _ in range(3))

    def picture(self, encoded: EncodedPicture) -> None:
        """Record one picture; it was decoded and encoded only when the engine did not have it."""
        self.fetch.observe(encoded.fetch_s)
        if encoded.decode_s:
            self.decode.observe(encoded.decode_s)
        if encoded.answer.cache == "miss":
            self.encode.observe(encoded.answer.encode_s)


class WorkerMetrics:
    """The metrics of one worker: its engines' last statistics and the front's own observations."""

    def __init__(self, engines: Sequence[EngineClient], pictures: PictureFigures | None = None) -> None:
        self.ranks = [RankFigures() for _ in engines]
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engines))
        self._registry.register(_FrontCollector(self.ranks, pictures))

    def render(self) -> bytes:
        """Return the text exposition."""
        return bytes(generate_latest(self._registry))


class _FrontCollector(Collector):
    def __init__(self, ranks: Sequence[RankFigures], pictures: PictureFigures | None) -> None:
        self._ranks, self._pictures = ranks, pictures

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for rank, figures in enumerate(self._ranks):
            for name, meaning, labels, value in figures.counters():
                if name not in families:
                    families[name] = CounterMetricFamily(name, meaning, labels=["rank", *labels])
                families[name].add_metric([str(rank), *labels.values()], value)
        yield from families.values()
        for name, meaning, field in (
            ("vllm:time_to_first_token_seconds", "Time to first token", "ttft"),
            ("vllm:inter_token_latency_seconds", "Time between tokens", "gaps"),
            ("vllm:e2e_request_latency_seconds", "From arrival to a choice's end", "e2e"),
        ):
            family = HistogramMetricFamily(name, meaning, labels=["rank"])
            for rank, figures in enumerate(self._ranks):
                histogram: Histogram = getattr(figures, field)
                family.add_metric([str(rank)], histogram.buckets(), histogram.total)
            yield family
        if self._pictures is not None:
            yield from self._picture_times(self._pictures)

    @staticmethod
    def _picture_times(pictures: PictureFigures) -> Iterator[Metric]:
        for name, meaning, histogram in (
            ("tercet:image_fetch_seconds", "Fetching or reading a picture", pictures.fetch),
            ("tercet:image_decode_seconds", "Unpacking and resizing a picture", pictures.decode),
            ("tercet:image_encode_seconds", "The encoder's batch that a picture was in", pictures.encode),
        ):
            yield HistogramMetricFamily(name, meaning, histogram.buckets(), histogram.total)


class _EngineCollector(Collector):
    def __init__(self, engines: Sequence[EngineClient]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        for name, meaning, keys in _GAUGES:
            yield self._family(GaugeMetricFamily(name, meaning, labels=["rank"]), keys)
        usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1", labels=["rank"])
        for rank, engine in enumerate(self._engines):
            total = engine.stats.get("blocks_total", 0)
            usage.add_metric([str(rank)], engine.stats["blocks_in_use"] / total if total else 0.0)
        yield usage
        for name, meaning, key in _COUNTERS:
            yield self._family(CounterMetricFamily(name, meaning, labels=["rank"]), (key,))
        handoffs = CounterMetricFamily("tercet:handoffs", "Tickets by how they ended", labels=["rank", "result"])
        busy = CounterMetricFamily(
            "tercet:engine_busy_seconds", "Time in steps, by the stage they computed for", labels=["rank", "stage"]
        )
        restarts = CounterMetricFamily("tercet:engine_restarts", "Engine processes started again", labels=["rank"])
        for rank, engine in enumerate(self._engines):
            for result, count in engine.stats.get("handoffs", {}).items():
                handoffs.add_metric([str(rank), result], count)
            for stage, seconds in engine.stats.get("busy_s", {}).items():
                busy.add_metric([str(rank), stage], seconds)
            restarts.add_metric([str(rank)], engine.restarts)
        yield handoffs
        yield busy
        yield restarts
        yield from self._lags()
        yield from self._pictures()

    def _lags(self) -> Iterator[Metric]:
        """Yield how late virtual GPUs' steps ended."""
        lags = [(str(rank), engine.stats["lag"]) for rank, engine in enumerate(self._engines) if "lag" in engine.stats]
        if lags:
            meaning = "How much later than the latency model says a virtual GPU's step ended"
            family = HistogramMetricFamily("tercet:virtual_step_lag_seconds", meaning, labels=["rank"])
            for rank, lag in lags:
                family.add_metric([rank], _buckets(LAG_BOUNDS, lag["counts"]), lag["seconds"])
            yield family

    def _pictures(self) -> Iterator[Metric]:
        """Yield the figures of ranks whose model sees."""
        ranks = [(str(rank), engine.stats["images"]) for rank, engine in enumerate(self._engines) if _sees(engine)]
        if not ranks:
            return
        kinds: list[tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], Iterable[tuple[str, str, str]]]]
        kinds = [(GaugeMetricFamily, _IMAGE_GAUGES), (CounterMetricFamily, _IMAGE_COUNTERS)]
        for kind, names in kinds:
            for name, meaning, key in names:
                family = kind(name, meaning, labels=["rank"])
                for rank, figures in ranks:
                    family.add_metric([rank], figures[key])
                yield family
        handoffs = CounterMetricFamily(
            "tercet:image_handoffs", "Image tickets by how they ended", labels=["rank", "result"]
        )
        for rank, figures in ranks:
            for result, count in figures["handoffs"].items():
                handoffs.add_metric([rank, result], count)
        yield handoffs

    def _family(self, family: Family, keys: Iterable[str]) -> Family:
        for rank, engine in enumerate(self._engines):
            family.add_metric([str(rank)], sum(engine.stats.get(key, 0) for key in keys))
        return family


def _sees(engine: EngineClient) -> bool:
    return "images" in engine.stats
