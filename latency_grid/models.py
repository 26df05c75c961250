"""What the grid holds: models, vision towers, GPUs and engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GPUS = ("a100", "h100", "h200")
ENGINES = ("vllm", "sglang", "trtllm")
TP = (1, 2, 4, 8)
SHARE = 0.95
"""Weights, activations and runtime may take so much of a GPU at most, or the model is taken not to fit."""

MISTRAL_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
"""Mistral-7B-v0.2, as in LLaVA-1.6: aiconfigurator has no configuration of it, its layers are Llama's."""

QWEN25_7B = {
    **MISTRAL_7B,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
"""Qwen2.5-7B, the language model of Qwen2.5-VL-7B; its layers are Llama's but for the bias."""


def models(folder: Path) -> dict[str, tuple[str, bool]]:
    """Return, by Tercet's name, what to ask aiconfigurator for, and whether it has experts."""
    for name, config in (("mistral-7b", MISTRAL_7B), ("qwen2.5-7b", QWEN25_7B)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return {
        "llama-3.1-8b": ("meta-llama/Meta-Llama-3.1-8B", False),
        "llama-3.1-70b": ("meta-llama/Meta-Llama-3.1-70B", False),
        "qwen3-8b": ("Qwen/Qwen3-8B", False),
        "qwen3-30b-a3b": ("Qwen/Qwen3-30B-A3B", True),
        "mistral-7b": (str(folder / "mistral-7b"), False),
        "qwen2.5-7b": (str(folder / "qwen2.5-7b"), False),
    }


TOWERS: dict[str, dict[str, Any]] = {
    "clip-l": {
        "depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096, "patch_size": 14,
        "temporal_patch_size": 1, "spatial_merge_size": 1, "out_hidden_size": 4096,
        "projector_dims": ((1024, 4096), (4096, 4096)),
    },
    "qwen2.5-vl": {
        "depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 5120, "patch_size": 14,
        "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 3584,
        "projector_dims": ((5120, 5120), (5120, 3584)), "partial_rotary_factor": 0.5,
    },
    "qwen3-vl": {
        "depth": 27, "hidden_size": 1152, "num_heads": 16, "intermediate_size": 4304, "patch_size": 16,
        "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 2048,
        "deepstack_visual_indexes": (8, 16, 24), "projector_dims": ((4608, 4608), (4608, 2048)),
        "projector_n_instances": 4, "partial_rotary_factor": 0.5,
    },
}  # fmt: skip
"""Vision towers with their projectors. Qwen2.5-VL's gated MLP of 3420 counts as a plain one of 5120 with as many
weights, and its windowed attention as full."""
A100_TOWER_FACTOR = 3.17
"""No tower was measured on an A100: the ratio of its bf16 FLOP/s to an H100's."""
