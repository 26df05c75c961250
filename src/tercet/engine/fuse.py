"""Turn a loaded transformers model into a FusedDecoder, where its structure is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tercet.engine.backend import DeviceBackend
from tercet.engine.decoder import DecoderLayer, DecoderShape, FusedDecoder
from tercet.engine.linear import LinearOp

FUSED_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})  # the others' angles depend on the sequence's length
LAYER_PARAMETERS = frozenset(
    {"input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"}
    | {f"self_attn.{name}_proj" for name in "qkvo"}
    | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
)


def can_fuse(model: Any) -> bool:
    """True for a causal language model whose every layer is exactly Llama's, with or without biases and head norms."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in FUSED_TYPES or rope.get("rope_type", "default") not in _ROPE_TYPES:
        return False
    if config.hidden_act != "silu" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return False
    names = {name.rpartition(".")[0] for layer in model.model.layers for name, _ in layer.named_parameters()}
    return names <= LAYER_PARAMETERS


def fuse(model: Any, backend: DeviceBackend, max_model_len: int) -> FusedDecoder:
    """Build the fused decoder, layer by layer, and empty `model` on the way: peak memory is one copy and one layer."""
    shape = _shape(model)
    device = backend.device
    rotation = _rotation(model, max_model_len)
    embedding = model.get_input_embeddings().weight.detach()
    head = backend.linear(model.get_output_embeddings().weight.detach().to(device), None, few_rows=True)
    norm = model.model.norm.weight.detach().to(device, torch.float32, copy=True)
    layers: list[DecoderLayer] = []
    for number in range(model.config.num_hidden_layers):
        layers.append(_layer(model.model.layers[number], shape, backend))
        model.model.layers[number] = nn.Identity()
    return FusedDecoder(
        shape=shape,
        # The table is only looked up: it stays in the checkpoint's type, half the size of fp32. Copied, since what was
        # loaded may be a view that keeps the whole weights file mapped.
        embedding=embedding.to(device, copy=True),
        layers=tuple(layers),
        norm=norm,
        head=head,
        rotation=(rotation[0].to(device), rotation[1].to(device)),
        ops=backend.ops,
    )


def _shape(model: Any) -> DecoderShape:
    config = model.config
    first = model.model.layers[0].self_attn
    windows = tuple(int(getattr(layer.self_attn, "sliding_window", None) or 0) for layer in model.model.layers)
    if config.model_type == "mistral":
        windows = (int(config.sliding_window or 0),) * len(windows)
    return DecoderShape(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=first.head_dim,
        eps=config.rms_norm_eps,
        scale=first.scaling,
        windows=windows,
    )


def _rotation(model: Any, max_model_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin, each [max_model_len, head_dim / 2], as the model's own rotary module computes them."""
    positions = torch.arange(max_model_len)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.float32), positions)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous()


def _layer(layer: Any, shape: DecoderShape, backend: DeviceBackend) -> DecoderLayer:
    attention, mlp = layer.self_attn, layer.mlp

    def vector(module: nn.Module) -> torch.Tensor:
        return module.get_parameter("weight").detach().to(backend.device, torch.float32, copy=True)

    def linear(*modules: nn.Module) -> LinearOp:
        """One linear that computes what the modules would, side by side."""
        weights = [module.get_parameter("weight").detach().to(backend.device) for module in modules]
        biases = [getattr(module, "bias", None) for module in modules]
        bias = None
        if any(b is not None for b in biases):
            filled = [w.new_zeros(len(w)) if b is None else b.detach() for w, b in zip(weights, biases, strict=True)]
            bias = torch.cat([b.to(backend.device) for b in filled])
        return backend.linear(torch.cat(weights) if len(weights) > 1 else weights[0], bias)

    head_norm = None
    if hasattr(attention, "q_norm"):
        q, k = vector(attention.q_norm), vector(attention.k_norm)
        head_norm = torch.cat([q.expand(shape.heads, -1), k.expand(shape.kv_heads, -1)])
    return DecoderLayer(
        input_norm=vector(layer.input_layernorm),
        qkv=linear(attention.q_proj, attention.k_proj, attention.v_proj),
        head_norm=head_norm,
        output=linear(attention.o_proj),
        mlp_norm=vector(layer.post_attention_layernorm),
        gate_up=linear(mlp.gate_proj, mlp.up_proj),
        down=linear(mlp.down_proj),
    )
