from __future__ import annotations

import json
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.latency.gpus import GPU, find_gpu, parse_gpu_spec
from tercet.latency.grid import grid_oracle
from tercet.latency.known_models import find_model
from tercet.latency.linear import LinearOracle
from tercet.latency.parts import PartsOracle
from tercet.latency.picture import picture_for
from tercet.latency.registry import oracle_for
from tercet.latency.roofline import roofline_oracle
from tercet.latency.virtual import virtual_oracle
from tests.unit.latency.test_gpus import LLAMA_CONFIG as LLAMA


@pytest.mark.parametrize(
    ("name", "grid", "tower"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", ""),
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b", ""),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "mistral-7b", "clip-l"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b", ""),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3-30b-a3b", "qwen3-vl"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-7b", "qwen2.5-vl"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", ""),
    ],
)
def test_a_model_is_known_by_its_usual_names(name: str, grid: str, tower: str) -> None:
    assert (find_model(name).grid, find_model(name).tower) == (grid, tower)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'gpt-9'.*llama-3\.1-8b.*config\.json"):
        oracle_for("gpt-9", "h100")


def test_a_known_model_takes_the_grid_and_says_so() -> None:
    chosen = oracle_for("llama-3.1-8b", "h100", memory_share=0.85)
    assert chosen.source.kind == "grid"
    assert "aiconfigurator-core 0.12.0" in chosen.source.summary and "vllm 0.24.0" in chosen.source.summary
    assert chosen.oracle.kv_capacity() == 400_224
    assert (chosen.link_bytes_s, chosen.image_tokens) == (450e9, 0)


def test_a_configuration_is_recognised_by_its_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert oracle_for(str(tmp_path), "h100").source.kind == "grid"
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 16}))
    chosen = oracle_for(str(tmp_path / "config.json"), "h100")
    assert chosen.source.kind == "roofline"
    assert "rough" in chosen.source.summary
    assert any("no tables are shipped" in each for each in chosen.source.assumptions)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json can't be read"):
        oracle_for(str(tmp_path), "h100")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="hidden_size"):
        oracle_for(str(tmp_path), "h100")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit 1 x h100"):
        oracle_for("llama-3.1-70b", "h100")
    with pytest.raises(UsageError, match="no room for KV"):
        oracle_for("llama-3.1-70b", "l4", tp=4)
    with pytest.raises(UsageError, match="take more GPUs"):
        oracle_for("llama-3.1-70b", "a100", tp=2, memory_share=0.85)
    assert oracle_for("llama-3.1-70b", "h100", tp=4).source.kind == "grid"


def test_where_the_grid_has_nothing_the_roofline_answers() -> None:
    chosen = oracle_for("qwen3-30b-a3b", "a100", "trtllm", tp=2)
    assert chosen.source.kind == "roofline"
    assert "not measured" in chosen.source.assumptions
    with pytest.raises(UsageError, match="not measured"):
        oracle_for("qwen3-30b-a3b", "a100", "trtllm", tp=2, kind="grid")


def test_unknown_names_are_refused() -> None:
    for arguments, said in (
        (("llama-3.1-8b", "b9000"), "--gpu-spec"),
        (("llama-3.1-8b", "h100", "mlx"), "vllm, sglang, trtllm"),
        (("llama-3.1-8b", "h100", "vllm", 0), "tensor parallel"),
    ):
        with pytest.raises(UsageError, match=said):
            oracle_for(*arguments)
    with pytest.raises(UsageError, match="auto, grid, live, roofline"):
        oracle_for("llama-3.1-8b", "h100", kind="guess")


def test_a_gpu_can_be_described() -> None:
    gpu = parse_gpu_spec("memory=96GB, bandwidth=4TB,flops=1000T,link=100GB")
    assert gpu == GPU("described", 96e9, 4e12, 1e15, 100e9)
    assert oracle_for("llama-3.1-8b", gpu).source.kind == "roofline"
    with pytest.raises(UsageError, match="lacks flops"):
        parse_gpu_spec("memory=96GB,bandwidth=4TB")
    with pytest.raises(UsageError, match="'speed=9'"):
        parse_gpu_spec("speed=9")


@pytest.mark.parametrize("gpu", ["h100", "h200"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-8b"])
def test_the_roofline_is_as_rough_as_it_says(gpu: str, model: str) -> None:
    measured = grid_oracle(gpu, "vllm", model, 1, memory_share=0.9)
    rough = roofline_oracle(find_model(model).shape, find_gpu(gpu), 1, memory_share=0.9)
    assert rough.prefill(1, 2000, 0) == pytest.approx(measured.prefill(1, 2000, 0), rel=0.25)
    assert rough.prefill(1, 500, 8000) == pytest.approx(measured.prefill(1, 500, 8000), rel=0.25)
    assert rough.decode(1, 500) == pytest.approx(measured.decode(1, 500), rel=0.25)
    assert rough.decode(64, 4000) == pytest.approx(measured.decode(64, 4000), rel=0.25)
    assert rough.decode_run(8, 100, 50) == pytest.approx(sum(rough.decode(8, 100 + i) for i in range(50)))
    assert rough.kv_capacity() == pytest.approx(measured.kv_capacity(), rel=0.15)


def test_pictures_become_tokens_as_the_models_say() -> None:
    assert picture_for("clip-l", 800, 600).tokens == 2340
    assert picture_for("clip-l", 1024, 1024).tiles == 5
    assert 2880 <= picture_for("clip-l", 1024, 1024).tokens <= 2928
    assert picture_for("qwen2.5-vl", 1400, 1400).tokens == 2500
    assert picture_for("qwen3-vl", 1024, 768).tokens == 32 * 24
    chosen = oracle_for("llava-1.6-mistral-7b", "a100", "trtllm", picture=(800, 600))
    assert chosen.image_tokens == 2340
    assert 10 < chosen.oracle.encode(1) < 20
    assert any("3.17" in each for each in chosen.source.assumptions)


def test_a_virtual_gpu_takes_the_grid_for_a_known_model_and_a_linear_oracle_for_others() -> None:
    assert isinstance(virtual_oracle("H100", LLAMA, "bf16"), PartsOracle)
    assert isinstance(virtual_oracle("h100", {**LLAMA, "num_hidden_layers": 4}, "bf16"), LinearOracle)
    assert isinstance(virtual_oracle("h100", LLAMA, "fp32"), LinearOracle)
    with pytest.raises(UsageError, match="unknown GPU"):
        virtual_oracle("b9000", LLAMA, "bf16")
