"""GPUs by name: rough, linear oracles from a few measured steps."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.core.errors import UsageError
from tercet.latency.linear import LinearOracle
from tercet.latency.model_size import LLAMA_31_8B, ModelSize

MEMORY_SHARE = 0.85
"""Share of a GPU's memory for weights and KV. 0.85 gives an H100 396,000 tokens of Llama-3.1-8B; vLLM: 400,000."""
MEASURED_TOKENS = 2000
MEASURED_BATCH = 32


@dataclass(frozen=True, slots=True)
class GPU:
    """One GPU. Times in ms are of Llama-3.1-8B, bf16, TP 1, vLLM: steps of aiconfigurator-core 0.12's measured tables.

    `prefill_ms` computes 2000 tokens; `decode_ms` and `decode_batch_ms` decode 1 and 32 sequences of 2000 tokens.
    `image_ms` encodes one picture (CLIP-L/336, 5 tiles). Memory in bytes, bandwidth in bytes a second.
    """

    memory: float
    bandwidth: float
    prefill_ms: float
    decode_ms: float
    decode_batch_ms: float
    image_ms: float


_GPUS = {
    "a100": GPU(80e9, 2.039e12, 122.0, 12.0, 19.0, 4.4 * 3.17),
    "h100": GPU(80e9, 3.35e12, 42.4, 6.23, 9.57, 4.4),
    "h200": GPU(141e9, 4.8e12, 42.4, 4.91, 7.24, 4.4),
}


def gpu_names() -> list[str]:
    """Return the names that `named_oracle` knows."""
    return sorted(_GPUS)


def named_oracle(gpu: str, model: ModelSize = LLAMA_31_8B) -> LinearOracle:
    """Return a rough, linear oracle of a GPU with a model.

    It gives the measured times for Llama-3.1-8B. For another model the reading of weights and the cost of a prompt
    token scale with the weights, the cost of context with the KV's bytes; the rest of the base, a step's overhead,
    stays. Raises UsageError when the GPU is unknown or the weights do not fit it.
    """
    measured = _GPUS.get(gpu.lower())
    if measured is None:
        raise UsageError(f"unknown GPU {gpu!r}: known are {', '.join(gpu_names())}")
    sequence_ms = (measured.decode_batch_ms - measured.decode_ms) / (MEASURED_BATCH - 1)
    base_ms = measured.decode_ms - sequence_ms
    token_ms = (measured.prefill_ms - base_ms) / MEASURED_TOKENS
    overhead_ms = base_ms - LLAMA_31_8B.weight_bytes / measured.bandwidth * 1e3
    room = measured.memory * MEMORY_SHARE - model.weight_bytes
    if room < model.kv_token_bytes:
        raise UsageError(f"{model.weight_bytes / 1e9:.1f} GB of weights leave no room for KV on a {gpu.lower()}")
    return LinearOracle(
        base_ms=overhead_ms + model.weight_bytes / measured.bandwidth * 1e3,
        token_ms=token_ms * model.weight_bytes / LLAMA_31_8B.weight_bytes,
        context_ms=sequence_ms / MEASURED_TOKENS * model.kv_token_bytes / LLAMA_31_8B.kv_token_bytes,
        kv_token_bytes=model.kv_token_bytes,
        kv_tokens=int(room // model.kv_token_bytes),
        image_ms=measured.image_ms,
    )
