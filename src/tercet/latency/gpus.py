"""GPUs by name: what they can do, and rough, linear oracles from a few measured steps."""

from __future__ import annotations

import re
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
    """One GPU: bytes of memory, bytes a second to it, dense bf16 FLOP/s, bytes a second to another GPU one way."""

    name: str
    memory: float
    bandwidth: float
    flops: float
    link: float


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """Times in ms of Llama-3.1-8B, bf16, TP 1, vLLM: steps of aiconfigurator-core 0.12's measured tables.

    `prefill_ms` computes 2000 tokens; `decode_ms` and `decode_batch_ms` decode 1 and 32 sequences of 2000 tokens.
    `image_ms` encodes one picture (CLIP-L/336, 5 tiles).
    """

    prefill_ms: float
    decode_ms: float
    decode_batch_ms: float
    image_ms: float


_GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("a100", 80e9, 2.039e12, 312e12, 300e9),
        GPU("h100", 80e9, 3.35e12, 989e12, 450e9),
        GPU("h200", 141e9, 4.8e12, 989e12, 450e9),
    )
}
_MORE = {
    gpu.name: gpu
    for gpu in (
        GPU("a10", 24e9, 0.6e12, 125e12, 32e9),
        GPU("a30", 24e9, 0.933e12, 165e12, 100e9),
        GPU("a100-40gb", 40e9, 1.555e12, 312e12, 300e9),
        GPU("l4", 24e9, 0.3e12, 121e12, 32e9),
        GPU("l40s", 48e9, 0.864e12, 362e12, 32e9),
        GPU("rtx4090", 24e9, 1.008e12, 165e12, 32e9),
        GPU("b200", 180e9, 8.0e12, 2250e12, 900e9),
        GPU("mi300x", 192e9, 5.3e12, 1307e12, 448e9),
    )
}
"""By their makers' data sheets; nothing was measured on them here."""
_STEPS = {
    "a100": MeasuredSteps(122.0, 12.0, 19.0, 4.4 * 3.17),
    "h100": MeasuredSteps(42.4, 6.23, 9.57, 4.4),
    "h200": MeasuredSteps(42.4, 4.91, 7.24, 4.4),
}
_SPEC = re.compile(r"(memory|bandwidth|flops|link)=([0-9]*\.?[0-9]+(?:e[0-9]+)?)(GB|TB|T|G)?", re.IGNORECASE)
_UNITS = {"": 1.0, "g": 1e9, "gb": 1e9, "t": 1e12, "tb": 1e12}


def gpu_names() -> list[str]:
    """Return the names of the GPUs whose steps were measured: those that `named_oracle` knows."""
    return sorted(_STEPS)


def find_gpu(name: str) -> GPU:
    """Return a GPU by name, measured or not. Raises UsageError that lists the known ones."""
    gpu = {**_GPUS, **_MORE}.get(name.lower())
    if gpu is None:
        raise UsageError(
            f"unknown GPU {name!r}: measured are {', '.join(sorted(_GPUS))}; roughly known {', '.join(sorted(_MORE))}; "
            "for any other describe it: --gpu-spec memory=80GB,bandwidth=3.35TB,flops=989T"
        )
    return gpu


def parse_gpu_spec(text: str) -> GPU:
    """Read `memory=80GB,bandwidth=3.35TB,flops=989T[,link=450GB]` as one GPU. Raises UsageError."""
    found: dict[str, float] = {}
    for part in text.replace(" ", "").split(","):
        match = _SPEC.fullmatch(part)
        if match is None:
            raise UsageError(
                f"--gpu-spec {text!r}: {part!r} is not like memory=80GB, bandwidth=3.35TB, flops=989T or link=450GB"
            )
        found[match[1].lower()] = float(match[2]) * _UNITS[(match[3] or "").lower()]
    missing = [name for name in ("memory", "bandwidth", "flops") if not found.get(name)]
    if missing:
        raise UsageError(f"--gpu-spec {text!r} lacks {' and '.join(missing)}: memory=80GB,bandwidth=3.35TB,flops=989T")
    return GPU("described", found["memory"], found["bandwidth"], found["flops"], found.get("link") or 32e9)


def named_oracle(gpu: str, model: ModelSize = LLAMA_31_8B) -> LinearOracle:
    """Return a rough, linear oracle of a measured GPU with a model.

    It gives the measured times for Llama-3.1-8B. For another model the reading of weights and the cost of a prompt
    token scale with the weights, the cost of context with the KV's bytes; the rest of the base, a step's overhead,
    stays. Raises UsageError when the GPU is unknown or the weights do not fit it.
    """
    device, measured = _GPUS.get(gpu.lower()), _STEPS.get(gpu.lower())
    if device is None or measured is None:
        raise UsageError(f"unknown GPU {gpu!r}: known are {', '.join(gpu_names())}")
    sequence_ms = (measured.decode_batch_ms - measured.decode_ms) / (MEASURED_BATCH - 1)
    base_ms = measured.decode_ms - sequence_ms
    token_ms = (measured.prefill_ms - base_ms) / MEASURED_TOKENS
    overhead_ms = base_ms - LLAMA_31_8B.weight_bytes / device.bandwidth * 1e3
    room = device.memory * MEMORY_SHARE - model.weight_bytes
    if room < model.kv_token_bytes:
        raise UsageError(f"{model.weight_bytes / 1e9:.1f} GB of weights leave no room for KV on a {gpu.lower()}")
    return LinearOracle(
        base_ms=overhead_ms + model.weight_bytes / device.bandwidth * 1e3,
        token_ms=token_ms * model.weight_bytes / LLAMA_31_8B.weight_bytes,
        context_ms=sequence_ms / MEASURED_TOKENS * model.kv_token_bytes / LLAMA_31_8B.kv_token_bytes,
        kv_token_bytes=model.kv_token_bytes,
        kv_tokens=int(room // model.kv_token_bytes),
        image_ms=measured.image_ms,
    )
