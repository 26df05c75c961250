from __future__ import annotations

import pytest

from tercet.core.errors import UsageError
from tercet.latency.gpus import gpu_names, named_oracle
from tercet.latency.linear import LinearOracle
from tercet.latency.model_size import LLAMA_31_8B, ModelSize, model_size
from tercet.latency.oracle import LatencyOracle

LLAMA_CONFIG = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


@pytest.mark.parametrize(
    ("gpu", "prefill", "one", "many"),
    [("h100", 42.4, 6.23, 9.57), ("H200", 42.4, 4.91, 7.24), ("a100", 122.0, 12.0, 19.0)],
)
def test_a_named_gpu_gives_the_measured_times(gpu: str, prefill: float, one: float, many: float) -> None:
    oracle: LatencyOracle = named_oracle(gpu)
    assert oracle.prefill(1, 2000, 0) == pytest.approx(prefill)
    assert oracle.decode(1, 2000) == pytest.approx(one)
    assert oracle.decode(32, 2000) == pytest.approx(many)


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'b200'.*a100, h100, h200"):
        named_oracle("b200")
    assert gpu_names() == ["a100", "h100", "h200"]


def test_the_capacity_of_an_h100_is_what_vllm_finds() -> None:
    assert named_oracle("h100").kv_capacity() == pytest.approx(400_224, rel=0.02)


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"140\.0 GB"):
        named_oracle("h100", ModelSize(140e9, 131072))


def test_a_smaller_model_is_faster_but_keeps_the_overhead_of_a_step() -> None:
    large, small = named_oracle("h100"), named_oracle("h100", ModelSize(0.27e9, 23040))
    assert small.kv_capacity() > large.kv_capacity()
    assert small.kv_bytes(10) == 230_400
    assert 1.0 < small.decode(1, 2000) < 2.0 < large.decode(1, 2000)
    assert small.prefill(1, 2000, 0) < large.prefill(1, 2000, 0) / 10


def test_the_linear_oracle_adds_up() -> None:
    oracle = LinearOracle(10.0, 1.0, 0.01, 4, 100, 3.0)
    assert oracle.prefill(2, 5, 100) == pytest.approx(10 + 10 + 2)
    assert oracle.decode(4, 50) == pytest.approx(12.0)
    assert oracle.mixed(10, 200, 4, 50) == pytest.approx(10 + 10 + 2 + 2)
    assert oracle.mixed(10, 200, 0, 0) == oracle.prefill(2, 5, 100)
    assert oracle.encode(2) == 6.0


def test_the_size_of_a_model_comes_from_its_configuration() -> None:
    size = model_size(LLAMA_CONFIG, "bf16")
    assert size.weight_bytes == pytest.approx(LLAMA_31_8B.weight_bytes, rel=0.001)
    assert size.kv_token_bytes == LLAMA_31_8B.kv_token_bytes
    assert model_size(LLAMA_CONFIG, "fp32").weight_bytes == 2 * size.weight_bytes
    tied = model_size({**LLAMA_CONFIG, "tie_word_embeddings": True}, "bf16")
    assert size.weight_bytes - tied.weight_bytes == 2 * 4096 * 128256


def test_a_configuration_without_a_needed_field_is_refused() -> None:
    with pytest.raises(UsageError, match="intermediate_size"):
        model_size({**LLAMA_CONFIG, "intermediate_size": None}, "bf16")


def test_a_slowed_gpu_takes_longer_for_everything_and_holds_as_much() -> None:
    fast, slow = named_oracle("h100"), named_oracle("h100").slowed(1.1)
    assert slow.prefill(1, 512, 64) == pytest.approx(1.1 * fast.prefill(1, 512, 64))
    assert slow.decode(8, 1000) == pytest.approx(1.1 * fast.decode(8, 1000))
    assert slow.mixed(512, 64, 8, 1000) == pytest.approx(1.1 * fast.mixed(512, 64, 8, 1000))
    assert slow.encode(2) == pytest.approx(1.1 * fast.encode(2))
    assert slow.kv_capacity() == fast.kv_capacity()
