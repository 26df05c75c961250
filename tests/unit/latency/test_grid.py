from __future__ import annotations

import timeit

import pytest

from tercet.latency.grid import grid_about, grid_has, grid_missing, grid_oracle, tower_ms
from tercet.latency.grid_axes import DECODE_CONTEXT
from tercet.latency.oracle import LatencyOracle
from tercet.latency.parts import PartsOracle


@pytest.fixture(scope="module")
def h100() -> PartsOracle:
    return grid_oracle("h100", "vllm", "llama-3.1-8b", 1, memory_share=0.85)


@pytest.mark.parametrize(
    ("gpu", "prefill", "one", "many"),
    [("h100", 42.4, 6.23, 9.57), ("h200", 42.4, 4.91, 7.24), ("a100", 122.3, 12.0, 18.98)],
)
def test_the_grid_gives_the_times_of_its_source(gpu: str, prefill: float, one: float, many: float) -> None:
    oracle: LatencyOracle = grid_oracle(gpu, "vllm", "llama-3.1-8b", 1, memory_share=0.85)
    assert oracle.prefill(1, 2000, 0) == pytest.approx(prefill, rel=0.01)
    assert oracle.decode(1, 2000) == pytest.approx(one, rel=0.01)
    assert oracle.decode(32, 2000) == pytest.approx(many, rel=0.01)


def test_the_capacity_is_what_vllm_finds(h100: PartsOracle) -> None:
    assert h100.kv_capacity() == 400_224
    assert h100.kv_bytes(10) == 1_310_720


def test_the_measured_error_off_the_grid_is_within_what_is_promised() -> None:
    about = grid_about()
    assert about["points"] > 10_000
    assert about["median_error"] <= 0.03
    assert about["source"] == "aiconfigurator-core 0.12.0"
    assert about["licence"] == "Apache-2.0"
    assert all(each["median"] <= 0.03 for each in about["errors"].values())


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("gpu", ["a100", "h100", "h200"])
def test_every_promised_model_is_there_where_it_fits(gpu: str, engine: str) -> None:
    for model in ("llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "qwen3-30b-a3b", "mistral-7b"):
        for tp in (1, 2, 4, 8):
            there = grid_has(gpu, engine, model, tp)
            assert there != bool(grid_missing(gpu, engine, model, tp))
            if model in ("llama-3.1-8b", "qwen3-8b", "mistral-7b"):
                assert there
    assert grid_missing(gpu, engine, "llama-3.1-70b", 1) == "does not fit"
    assert 3 < tower_ms(gpu, engine, "clip-l", 5, 576)[1] < 20


def test_a_run_of_decode_steps_is_the_sum_of_its_steps(h100: PartsOracle) -> None:
    for context in (0.0, 3.5, 511.0, 2047.7, 140_000.0):
        for steps in (1, 2, 700):
            each = sum(h100.decode(7, context + step) for step in range(steps))
            assert h100.decode_run(7, context, steps) == pytest.approx(each, rel=1e-9)


def test_a_mixed_step_of_one_kind_alone_is_that_kind(h100: PartsOracle) -> None:
    assert h100.mixed(500, 100, 0, 0.0) == pytest.approx(h100.prefill(1, 500, 100))
    assert h100.mixed(1000, 200, 0, 0.0, 2) == pytest.approx(h100.prefill(2, 500, 100))
    assert h100.mixed(1000, 0, 0, 0.0, 2) < h100.mixed(1000, 0, 0, 0.0, 1)
    assert h100.mixed(500, 0, 32, 1000.0) > max(h100.prefill(1, 500, 0), h100.decode(32, 1000.0))


def test_beyond_the_grid_times_go_on_growing(h100: PartsOracle) -> None:
    last = DECODE_CONTEXT[-1]
    assert h100.decode(4, 2 * last) > h100.decode(4, last) > h100.decode(4, last // 2)
    assert h100.prefill(1, 65536, 0) > 1.9 * h100.prefill(1, 32768, 0)
    assert h100.decode(2000, 500) > h100.decode(1024, 500)
    assert h100.prefill(64, 100, 0) > h100.prefill(32, 100, 0)


def test_more_gpus_are_faster_and_a_slowed_one_is_slower(h100: PartsOracle) -> None:
    eight = grid_oracle("h100", "vllm", "llama-3.1-8b", 8, memory_share=0.85)
    assert eight.decode(32, 2000) < h100.decode(32, 2000) / 2
    assert eight.kv_capacity() > 8 * h100.kv_capacity()
    slow = h100.slowed(1.5).slowed(2.0)
    assert slow.decode(32, 2000) == pytest.approx(3 * h100.decode(32, 2000))
    assert slow.kv_capacity() == h100.kv_capacity()


def test_pictures_cost_less_each_when_together(h100: PartsOracle) -> None:
    seeing = h100.seeing(tower_ms("h100", "vllm", "clip-l", 5, 576))
    assert seeing.encode(0) == 0
    assert seeing.encode(4) < 4 * seeing.encode(1)
    assert seeing.encode(100) > seeing.encode(50) > seeing.encode(12)


def test_a_call_takes_microseconds(h100: PartsOracle) -> None:
    h100.decode(32, 2000.0)
    best = min(timeit.repeat(lambda: h100.decode(32, 2000.5), number=1000, repeat=5)) / 1000
    assert best < 20e-6
