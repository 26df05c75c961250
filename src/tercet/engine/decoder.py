"""The fused forward of Llama-like text models: what `transformers` computes, in fewer and larger operations.

Query, key and value are one linear, gate and up another; residual and norm are one operation; the last layer computes
only the rows whose logits are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tercet.engine.attention import PagedAttention
from tercet.engine.linear import LinearOp
from tercet.engine.ops import LayerOps
from tercet.engine.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Numbers of a Llama-like decoder. `scale` multiplies attention scores; `windows` has each layer's (0: none)."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    scale: float
    windows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One layer's weights. `head_norm` [heads + kv_heads, head_dim] multiplies normed queries and keys, if there."""

    input_norm: torch.Tensor
    qkv: LinearOp
    head_norm: torch.Tensor | None
    output: LinearOp
    mlp_norm: torch.Tensor
    gate_up: LinearOp
    down: LinearOp


class FusedDecoder:
    """A whole model: token ids in, logits of the sampled rows out."""

    def __init__(
        self,
        shape: DecoderShape,
        embedding: torch.Tensor,
        layers: tuple[DecoderLayer, ...],
        norm: torch.Tensor,
        head: LinearOp,
        rotation: tuple[torch.Tensor, torch.Tensor],
        ops: LayerOps,
    ) -> None:
        """`embedding` [vocabulary, hidden]; `rotation` (cos, sin), each [max_model_len, head_dim / 2] fp32."""
        self._shape = shape
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self._cos, self._sin = rotation
        self._ops = ops

    def logits(self, plan: StepPlan, attention: PagedAttention) -> torch.Tensor | None:
        """Compute one step. Returns [sampled rows, vocabulary], or None when nothing is sampled."""
        shape, ops = self._shape, self._ops
        hidden = F.embedding(plan.ids, self._embedding).float()
        for override in plan.overrides:
            hidden[override.first : override.first + len(override.rows)] = override.rows
        cos, sin = self._cos[plan.positions], self._sin[plan.positions]
        rotated = shape.heads + shape.kv_heads
        final = len(self._layers) - 1
        change: torch.Tensor | None = None
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv(ops.add_norm(hidden, change, layer.input_norm, shape.eps))
            qkv = qkv.view(len(qkv), -1, shape.head_dim)
            if layer.head_norm is not None:
                normed = F.rms_norm(qkv[:, :rotated], (shape.head_dim,), None, shape.eps)
                qkv[:, :rotated] = normed * layer.head_norm
            ops.rotate(qkv[:, :rotated], cos, sin)
            attention.write(plan, number, qkv[:, shape.heads :])
            last = number == final
            if last:
                if not plan.sampled_chunks:
                    return None
                hidden = hidden[plan.sampled]
            query = qkv[:, : shape.heads]
            mixed = attention.read(plan, number, query, shape.scale, window=shape.windows[number], last=last)
            normed = ops.add_norm(hidden, layer.output(mixed), layer.mlp_norm, shape.eps)
            change = layer.down(ops.gate(layer.gate_up(normed)))
        return self._head(ops.add_norm(hidden, change, self._norm, shape.eps))
