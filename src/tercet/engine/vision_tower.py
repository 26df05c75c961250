"""CLIP's tower and LLaVA's projector as plain operations: pixels of one picture in, its rows for a language model out.

What `transformers` computes, with query, key and value as one linear and the patches cut by a view. The layers behind
the one that the projector reads are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from tercet.core.errors import UsageError
from tercet.engine.backend import DeviceBackend
from tercet.engine.linear import LinearOp

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class TowerShape:
    """Numbers of a tower.

    `layers` are those computed. `reads` are the hidden states that the projector gets side by side, 0 the tower's
    entry; `keeps_class` says that the class row is a token too.
    """

    image: int
    patch: int
    width: int
    heads: int
    layers: int
    reads: tuple[int, ...]
    eps: float
    keeps_class: bool

    @property
    def tokens(self) -> int:
        """Rows of one picture."""
        return (self.image // self.patch) ** 2 + self.keeps_class

    @classmethod
    def of(cls, config: Any) -> TowerShape:
        """Read a transformers LlavaConfig. Raises UsageError for a tower that is not CLIP's."""
        vision = config.vision_config
        if vision.model_type != "clip_vision_model":
            raise UsageError(
                f"the vision tower is a {vision.model_type!r}: the built-in encoder knows clip_vision_model"
            )
        chosen = config.vision_feature_layer
        reads = tuple(
            layer if layer >= 0 else vision.num_hidden_layers + 1 + layer
            for layer in ([chosen] if isinstance(chosen, int) else chosen)
        )
        if not all(0 <= layer <= vision.num_hidden_layers for layer in reads):
            raise UsageError(
                f"vision_feature_layer {chosen} is not among the tower's {vision.num_hidden_layers} layers"
            )
        return cls(
            image=vision.image_size,
            patch=vision.patch_size,
            width=vision.hidden_size,
            heads=vision.num_attention_heads,
            layers=max(reads),
            reads=reads,
            eps=vision.layer_norm_eps,
            keeps_class=config.vision_feature_select_strategy == "full",
        )


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, x: torch.Tensor, eps: float) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    norm: _Norm
    qkv: LinearOp
    output: LinearOp
    mlp_norm: _Norm
    up: LinearOp
    down: LinearOp


class VisionTower:
    """Tower and projector on one device. The residual stream and the norms are fp32, linears the backend's type."""

    def __init__(self, config: Any, weights: Weights, backend: DeviceBackend) -> None:
        """`weights` are named as `engine.llava.vision_weights` names them. Raises UsageError when one is missing."""
        from transformers.activations import ACT2FN

        self.shape = shape = TowerShape.of(config)
        self._backend = backend
        self._gelu: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[config.vision_config.hidden_act]
        self._projector_gelu: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[config.projector_hidden_act]
        source = _Source(weights, backend)
        entry = "vision_tower.embeddings."
        self._patches = backend.linear(source.take(f"{entry}patch_embedding.weight").flatten(1), None)
        positions = source.vector(f"{entry}position_embedding.weight")
        self._class_row = source.vector(f"{entry}class_embedding") + positions[0]
        self._positions = positions[1:]
        if len(positions) != (shape.image // shape.patch) ** 2 + 1:
            raise UsageError(f"the tower has {len(positions)} positions, not those of a {shape.image}-pixel picture")
        self._entry_norm = source.norm("vision_tower.pre_layrnorm")
        self._layers = [source.layer(f"vision_tower.encoder.layers.{i}") for i in range(shape.layers)]
        self._projector = [source.linear(f"multi_modal_projector.linear_{i}") for i in (1, 2)]

    def rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """[3, image, image] -> [tokens, hidden] in the backend's compute type."""
        shape, dtype = self.shape, self._backend.compute_dtype
        side, patch = shape.image // shape.patch, shape.patch
        cut = pixels[:, : side * patch, : side * patch].reshape(3, side, patch, side, patch)
        flat = cut.permute(1, 3, 0, 2, 4).reshape(side * side, 3 * patch * patch)
        patches = self._patches(flat.to(dtype)).float() + self._positions
        hidden = self._entry_norm(torch.cat((self._class_row[None], patches)), shape.eps)
        states = {0: hidden}
        for number, layer in enumerate(self._layers, start=1):
            hidden = self._run(layer, hidden)
            states[number] = hidden
        seen = torch.cat([states[read] for read in shape.reads], -1)
        first, second = self._projector
        return second(self._projector_gelu(first((seen if shape.keeps_class else seen[1:]).to(dtype))))

    def _run(self, layer: _Layer, hidden: torch.Tensor) -> torch.Tensor:
        shape, dtype = self.shape, self._backend.compute_dtype
        qkv = layer.qkv(layer.norm(hidden, shape.eps).to(dtype))
        query, key, value = qkv.view(len(hidden), 3, shape.heads, -1).permute(1, 2, 0, 3)
        mixed = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        hidden = hidden + layer.output(mixed.transpose(0, 1).reshape(len(hidden), shape.width)).float()
        inner = self._gelu(layer.up(layer.mlp_norm(hidden, shape.eps).to(dtype)))
        return hidden + layer.down(inner).float()


class _Source:
    """Hands out weights in the form that the tower keeps them in."""

    def __init__(self, weights: Weights, backend: DeviceBackend) -> None:
        self._weights = weights
        self._backend = backend

    def take(self, name: str) -> torch.Tensor:
        """A weight as the backend rounds it."""
        try:
            weight = self._weights[name]
        except KeyError:
            raise UsageError(f"the checkpoint has no weight {name!r}: its vision tower is not CLIP's") from None
        return weight.to(self._backend.device, self._backend.weight_dtype or torch.float32)

    def vector(self, name: str) -> torch.Tensor:
        return self.take(name).float()

    def norm(self, name: str) -> _Norm:
        return _Norm(self.vector(f"{name}.weight"), self.vector(f"{name}.bias"))

    def linear(self, *names: str) -> LinearOp:
        """One linear that computes what those of `names` would, side by side."""
        weight = torch.cat([self.take(f"{name}.weight") for name in names])
        biases = [f"{name}.bias" for name in names]
        bias = torch.cat([self.take(bias) for bias in biases]) if biases[0] in self._weights else None
        return self._backend.linear(weight, bias)

    def layer(self, name: str) -> _Layer:
        attention = f"{name}.self_attn"
        return _Layer(
            norm=self.norm(f"{name}.layer_norm1"),
            qkv=self.linear(f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            output=self.linear(f"{attention}.out_proj"),
            mlp_norm=self.norm(f"{name}.layer_norm2"),
            up=self.linear(f"{name}.mlp.fc1"),
            down=self.linear(f"{name}.mlp.fc2"),
        )
