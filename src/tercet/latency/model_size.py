"""How big a model is: what a latency estimate has to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tercet.core.errors import UsageError

DTYPE_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Bytes of the weights, and of the KV of one token."""

    weight_bytes: float
    kv_token_bytes: int


LLAMA_31_8B = ModelSize(16.06e9, 131_072)
"""Llama-3.1-8B in bf16, the model on which the named GPUs were measured."""


def model_size(config: Mapping[str, object], dtype: str) -> ModelSize:
    """Return the size of a dense Llama-like model from its config.json. Raises UsageError when a field is missing."""

    def number(name: str, default: int | None = None) -> int:
        value = config.get(name, default)
        if not isinstance(value, int):
            raise UsageError(f"config.json says {value!r} for {name}, a whole number is needed to estimate latencies")
        return value

    each = DTYPE_BYTES[dtype]
    hidden, layers, heads = number("hidden_size"), number("num_hidden_layers"), number("num_attention_heads")
    head_dim = hidden // heads if config.get("head_dim") is None else number("head_dim")
    kv_width = number("num_key_value_heads", heads) * head_dim
    attention = hidden * (2 * heads * head_dim + 2 * kv_width)
    mlp = 3 * hidden * number("intermediate_size")
    embeddings = number("vocab_size") * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return ModelSize((layers * (attention + mlp) + embeddings) * each, 2 * layers * kv_width * each)
