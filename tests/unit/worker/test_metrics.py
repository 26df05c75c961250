from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from tercet.core.image_ticket import ImageTicket
from tercet.worker.encoded_picture import EncodedPicture
from tercet.worker.engine_client import EngineClient
from tercet.worker.metrics import Histogram, PictureFigures, WorkerMetrics
from tercet.worker.wire import ImageAnswer, Origin


class Rank:
    """What the collector reads of an EngineClient."""

    def __init__(self, stats: dict[str, Any], restarts: int) -> None:
        self.stats, self.restarts = stats, restarts


def render(metrics: WorkerMetrics) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_what_the_contract_names_is_there_with_its_rank() -> None:
    stats = {"blocks_total": 10, "blocks_in_use": 4, "waiting": 1, "preempted": 2, "handoffs": {"accepted": 3}}
    stats["busy_s"] = {"prefill": 1.5, "decode": 0.25}
    ranks = [Rank(stats, 1), Rank({}, 0)]
    metrics = WorkerMetrics(cast("list[EngineClient]", ranks))
    figures = metrics.ranks[0]
    figures.first_token(100, Origin(16, 32, False, 0, 0, 0), 0.05)
    figures.token_gap(0.01)
    figures.token_gap(3)
    figures.finished("stop", 3.1)
    got = render(metrics)
    for name, value in {
        'vllm:kv_cache_usage_perc{rank="0"}': 0.4,
        'vllm:num_requests_waiting{rank="0"}': 3,
        'tercet:handoffs_total{rank="0",result="accepted"}': 3,
        'tercet:engine_busy_seconds_total{rank="0",stage="prefill"}': 1.5,
        'tercet:engine_busy_seconds_total{rank="0",stage="decode"}': 0.25,
        'tercet:engine_restarts_total{rank="0"}': 1,
        'vllm:prompt_tokens_total{rank="0"}': 100,
        'vllm:generation_tokens_total{rank="0"}': 3,
        'vllm:prompt_tokens_by_source_total{rank="0",source="local_compute"}': 52,
        'vllm:prompt_tokens_by_source_total{rank="0",source="local_cache_hit"}': 16,
        'vllm:prompt_tokens_by_source_total{rank="0",source="external_kv_transfer"}': 32,
        'vllm:request_success_total{finished_reason="stop",rank="0"}': 1,
        'vllm:request_success_total{finished_reason="abort",rank="0"}': 0,
        'vllm:inter_token_latency_seconds_bucket{le="0.01",rank="0"}': 1,
        'vllm:inter_token_latency_seconds_bucket{le="+Inf",rank="0"}': 2,
        'vllm:inter_token_latency_seconds_count{rank="0"}': 2,
        'vllm:inter_token_latency_seconds_sum{rank="0"}': 3.01,
        'vllm:time_to_first_token_seconds_count{rank="0"}': 1,
        'vllm:e2e_request_latency_seconds_sum{rank="0"}': 3.1,
        'tercet:kv_blocks_in_use{rank="1"}': 0,
        'vllm:kv_cache_usage_perc{rank="1"}': 0,
        'vllm:prompt_tokens_total{rank="1"}': 0,
    }.items():
        assert got[name] == value, name
    assert not any("_created" in name for name in got)
    assert not any("image" in name or "embedding" in name for name in got), "these ranks see nothing"


def test_a_rank_that_sees_says_what_its_embeddings_do() -> None:
    images = {
        **{"hits": 1, "misses": 2, "joined": 3, "evictions": 4, "bytes": 5, "encoded": 6, "batches": 7},
        "blocks_in_use": 11,
        **{"waiting": 8, "held": 9, "handoffs": {"accepted": 10}},
    }
    figures = PictureFigures()
    metrics = WorkerMetrics(cast("list[EngineClient]", [Rank({"images": images}, 0), Rank({}, 0)]), figures)
    hit = EncodedPicture("k", ImageAnswer(cast(ImageTicket, None), "hit", 0, 0), 0.02, 0)
    figures.picture(hit)
    figures.picture(replace(hit, decode_s=0.03, answer=replace(hit.answer, cache="miss", encode_s=0.3)))
    got = render(metrics)
    for name, value in {
        'tercet:embedding_cache_hits_total{rank="0"}': 1,
        'tercet:embedding_cache_misses_total{rank="0"}': 2,
        'tercet:embedding_cache_joined_total{rank="0"}': 3,
        'tercet:embedding_cache_evictions_total{rank="0"}': 4,
        'tercet:embedding_cache_bytes{rank="0"}': 5,
        'tercet:encoder_forward_images_total{rank="0"}': 6,
        'tercet:encoder_batches_total{rank="0"}': 7,
        'tercet:embedding_blocks_in_use{rank="0"}': 11,
        'tercet:num_images_waiting{rank="0"}': 8,
        'tercet:num_images_held{rank="0"}': 9,
        'tercet:image_handoffs_total{rank="0",result="accepted"}': 10,
        "tercet:image_fetch_seconds_count": 2,
        "tercet:image_decode_seconds_sum": 0.03,
        "tercet:image_encode_seconds_sum": 0.3,
    }.items():
        assert got[name] == value, name
    assert not any("embedding" in name and 'rank="1"' in name for name in got)


def test_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)] and histogram.total == 14.0
