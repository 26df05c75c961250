"""Linear layers for inference: the weight in whatever layout multiplies fastest."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

PACK_ROWS = 16  # the batch that the packed layout is chosen for: a decode step's


class LinearOp(Protocol):
    """x [rows, in] -> [rows, out]."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        ...


class PlainLinear:
    """The weight as it is, [out, in]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weight.T + bias."""
        return F.linear(x, self.weight, self.bias)


class TransposedLinear:
    """The weight stored as [in, out], which the CPU's matrix library reads without repacking it at every call."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight.t().contiguous()
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weight.T + bias."""
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)


class PackedLinear:
    """The weight in oneDNN's blocked layout."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACK_ROWS)
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weight.T + bias."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


def can_prepack(dtype: torch.dtype) -> bool:
    """True when this CPU has oneDNN kernels for prepacked weights of `dtype` (bf16: only with AVX512-BF16 or AMX)."""
    if not torch._C._has_mkldnn:
        return False
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(32, 32, dtype=dtype), PACK_ROWS)
    except RuntimeError:  # how oneDNN says that the instructions are missing
        return False
    return True
