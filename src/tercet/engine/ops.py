"""The small operations of a decoder layer, behind one protocol: torch everywhere, compiled kernels where they help."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F


class LayerOps(Protocol):
    """Implementations: TorchOps, and jit.ops.JitOps.

    The residual stream `hidden` and the norms' weights are fp32; what linears take and give is in the backend's type.
    """

    def add_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """Add `delta` to `hidden` [rows, width] in place; return the RMSNorm of the sum."""
        ...

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[rows, 2 * width] -> [rows, width]: silu of the first half times the second. May overwrite its input."""
        ...

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Rotate `x` [rows, heads, dim] in place; `cos`, `sin` [rows, dim / 2] fp32. A pair is (i, i + dim / 2)."""
        ...


class TorchOps:
    """Plain torch operators, on any device."""

    def __init__(self, dtype: torch.dtype) -> None:
        """`dtype`: what linears take and give."""
        self.dtype = dtype

    def add_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """Add, then RMSNorm."""
        if delta is not None:
            hidden.add_(delta)
        return F.rms_norm(hidden, hidden.shape[-1:], weight, eps).to(self.dtype)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up."""
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Rotate in fp32, round once."""
        first, second = x.float().chunk(2, -1)
        cos, sin = cos[:, None], sin[:, None]
        x.copy_(torch.cat((first * cos - second * sin, second * cos + first * sin), -1))
