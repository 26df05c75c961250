"""The roofline oracle: any model on any GPU, from bandwidth, FLOP/s and memory. Rough."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.core.errors import UsageError
from tercet.latency.gpus import GPU
from tercet.latency.parts import PartsOracle
from tercet.latency.shape import ModelShape

COMPUTE_SHARE = 0.65
"""Of the FLOP/s that matrix products reach."""
BANDWIDTH_SHARE = 0.72
"""Of the bandwidth that reading weights and KV reaches."""
ATTENTION_SHARE = 0.4
"""Of the FLOP/s that a prompt's attention reaches."""
LAYER_MS = 0.018
"""Small kernels of one layer, whatever the batch."""
REDUCE_MS = 0.012
"""Latency of one sum over tensor-parallel GPUs, of which a layer has two."""
OVERHEAD_BYTES = 4.5e9
"""Activations and runtime, beside weights and KV."""
IMAGE_FLOPS = 2 * 0.3e9 * 2880
"""One picture through a CLIP-L: 300 M weights, five tiles of 576 patches."""


@dataclass(frozen=True, slots=True)
class RooflineParts:
    """StepParts of a model over `tp` GPUs: the slower of computing and of reading, and a constant a layer."""

    shape: ModelShape
    gpu: GPU
    tp: int
    dtype_bytes: int = 2

    def tokens(self, count: int) -> float:
        """See StepParts."""
        shape, rate = self.shape, self.gpu.flops * COMPUTE_SHARE * self.tp
        dense = shape.attention_weights + (0 if shape.experts else shape.mlp_weights)
        active = dense + shape.mlp_weights * shape.active_experts
        read = dense + (shape.mlp_weights * self._experts_read(count) if shape.experts else 0.0)
        computing = 2.0 * active * count / rate
        reading = read * self.dtype_bytes / (self.gpu.bandwidth * BANDWIDTH_SHARE * self.tp)
        elementwise = 12.0 * count * shape.hidden * shape.layers * self.dtype_bytes / self.gpu.bandwidth
        return (max(computing, reading) + elementwise) * 1e3 + shape.layers * LAYER_MS + self._reduce(count)

    def logits(self, sequences: int) -> float:
        """See StepParts."""
        weights = self.shape.vocab * self.shape.hidden
        reading = weights * self.dtype_bytes / (self.gpu.bandwidth * BANDWIDTH_SHARE * self.tp)
        return max(reading, 2.0 * weights * sequences / (self.gpu.flops * COMPUTE_SHARE * self.tp)) * 1e3

    def prompt_attention(self, batch: int, tokens: float, prefix: float) -> float:
        """See StepParts."""
        shape = self.shape
        pairs = batch * tokens * (prefix + tokens / 2)
        flops = 4.0 * pairs * shape.heads * shape.head_dim * shape.layers
        return max(flops / (self.gpu.flops * ATTENTION_SHARE * self.tp) * 1e3, self._read_kv(batch * (tokens + prefix)))

    def decode_attention(self, batch: int, context: float) -> float:
        """See StepParts."""
        return self._read_kv(batch * context)

    def decode_attention_run(self, batch: int, context: float, steps: int) -> float:
        """See StepParts."""
        return steps * self._read_kv(batch * (context + (steps - 1) / 2))

    def _read_kv(self, tokens: float) -> float:
        split = min(self.tp, self.shape.kv_heads)
        nbytes = tokens * self.shape.kv_token_bytes(self.dtype_bytes)
        return nbytes / (self.gpu.bandwidth * BANDWIDTH_SHARE * split) * 1e3

    def _experts_read(self, count: int) -> float:
        """Return how many experts of a layer `count` tokens wake, each token choosing evenly."""
        shape = self.shape
        return float(shape.experts * (1 - (1 - shape.active_experts / shape.experts) ** count))

    def _reduce(self, count: int) -> float:
        if self.tp == 1:
            return 0.0
        moved = 2 * (self.tp - 1) / self.tp * count * self.shape.hidden * self.dtype_bytes / self.gpu.link
        return 2 * self.shape.layers * (REDUCE_MS + moved * 1e3)


def roofline_oracle(
    shape: ModelShape, gpu: GPU, tp: int, *, memory_share: float, dtype_bytes: int = 2, tiles: float = 1.0
) -> PartsOracle:
    """Return the oracle; `tiles` are a picture's size in pictures of CLIP-L. Raises UsageError when KV does not fit."""
    weights = shape.weights * dtype_bytes
    split = min(tp, shape.kv_heads)
    room = gpu.memory * memory_share - weights / tp - OVERHEAD_BYTES
    kv_bytes = shape.kv_token_bytes(dtype_bytes)
    tokens = int(room // (kv_bytes / split))
    if tokens < 1:
        needed = f"{weights / 1e9:.1f} GB of weights over {tp} x {gpu.name} ({gpu.memory / 1e9:.0f} GB each)"
        raise UsageError(f"{needed} leave no room for KV: take more GPUs a replica (tensor parallel), or bigger ones")
    image_ms = IMAGE_FLOPS * tiles / (gpu.flops * ATTENTION_SHARE) * 1e3
    return PartsOracle(RooflineParts(shape, gpu, tp, dtype_bytes), kv_bytes, tokens, (0.0, image_ms))
