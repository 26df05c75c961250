"""The shape of a model, from its config.json: what a roofline needs, and by which a known model is recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama-like text model, dense or with experts. `experts` 0: dense; `inter` is then the MLP's width, and one
    expert's otherwise, of which `active_experts` compute each token."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inter: int
    vocab: int
    experts: int = 0
    active_experts: int = 0
    tied: bool = False

    @property
    def attention_weights(self) -> int:
        """Weights of the projections of attention, all layers."""
        return self.layers * self.hidden * (2 * self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def mlp_weights(self) -> int:
        """Weights of one MLP or of one expert, all layers."""
        return self.layers * 3 * self.hidden * self.inter

    @property
    def weights(self) -> int:
        """All weights."""
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.attention_weights + self.mlp_weights * max(self.experts, 1) + embeddings

    def kv_token_bytes(self, dtype_bytes: int = 2) -> int:
        """Return the size of one token's keys and values, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * dtype_bytes


def shape_of(config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
    """Return the shape that a config.json (or its text_config) describes. Raises UsageError when a field is missing."""
    text: Mapping[str, Any] = config.get("text_config", config)

    def number(name: str, default: int | None = None) -> int:
        value = text.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or value < 0:
            raise UsageError(f"{where} says {value!r} for {name}, a whole number is needed to estimate latencies")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    experts = number("num_experts", number("num_local_experts", 0))
    return ModelShape(
        hidden=hidden,
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", hidden // max(heads, 1)),
        inter=number("moe_intermediate_size", number("intermediate_size", 0))
        if experts
        else number("intermediate_size"),
        vocab=number("vocab_size"),
        experts=experts,
        active_experts=number("num_experts_per_tok", 1) if experts else 0,
        tied=bool(text.get("tie_word_embeddings", False)),
    )
