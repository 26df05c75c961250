"""The compiled kernels behind the engine's own protocols: tensors in, tensors out."""

from __future__ import annotations

from functools import cache

import torch

from tercet.engine.jit.compiler import Compiled, cpu_features
from tercet.engine.jit.elementwise import AddNormWriter, GateWriter, RotateWriter
from tercet.engine.jit.emitter import WIDTH
from tercet.engine.jit.gemm import PANEL, GemmKernel
from tercet.engine.ops import TorchOps


class JitLinear:
    """x [rows, in] fp32 -> [rows, out] fp32, with the weight in bf16 where it came in bf16, else in fp32."""

    def __init__(self, kernel: GemmKernel, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        outputs, self._inputs = weight.shape
        self._outputs = outputs
        self._panels = -(-outputs // PANEL)
        padded = weight.new_zeros(self._panels * PANEL, self._inputs)
        padded[:outputs] = weight
        self.weight = padded.view(self._panels, PANEL, self._inputs).transpose(1, 2).contiguous()
        self.bias = None if bias is None else bias.float()
        self._address = self.weight.data_ptr()
        self._kernel = kernel
        self._call = kernel.call

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weight.T + bias."""
        if x.stride(1) != 1:
            x = x.contiguous()
        width = self._panels * PANEL
        y = torch.empty(x.shape[0], width)
        self._call(
            x.data_ptr(), self._address, y.data_ptr(), x.shape[0], self._inputs, self._panels, x.stride(0), width
        )
        if width != self._outputs:
            y = y[:, : self._outputs]
        return y if self.bias is None else y.add_(self.bias)


@cache  # machine code is immutable: one copy a process
def _compiled(bf16: bool) -> tuple[Compiled, Compiled, Compiled]:
    return Compiled(AddNormWriter(bf16)), Compiled(GateWriter(bf16)), Compiled(RotateWriter(bf16))


class JitOps(TorchOps):
    """Layer operations in compiled kernels, and linears for fp32; torch takes what is not in whole vectors."""

    def __init__(self, dtype: torch.dtype) -> None:
        """`dtype`: fp32 or bf16."""
        super().__init__(dtype)
        self._gemm: dict[torch.dtype, GemmKernel] = {}
        self._add_norm, self._gate, self._rotate = _compiled(dtype == torch.bfloat16)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> JitLinear:
        """Pack a weight [out, in] for fp32 inputs: bf16 stays bf16, anything else becomes fp32."""
        if weight.dtype != torch.bfloat16:
            weight = weight.float()
        if weight.dtype not in self._gemm:
            self._gemm[weight.dtype] = GemmKernel(bf16=weight.dtype == torch.bfloat16)
        return JitLinear(self._gemm[weight.dtype], weight, bias)

    def add_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """Add and norm in one pass."""
        rows, width = hidden.shape
        if width % WIDTH or not hidden.is_contiguous():
            return super().add_norm(hidden, delta, weight, eps)
        out = torch.empty(rows, width, dtype=self.dtype)
        change = hidden if delta is None else delta
        self._add_norm.call(
            hidden.data_ptr(),
            change.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            rows,
            width,
            change.stride(0),
            delta is not None,
            eps,
        )
        return out

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up in one pass."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        if width % WIDTH:
            return super().gate(gate_up)
        out = torch.empty(rows, width, dtype=self.dtype)
        self._gate.call(gate_up.data_ptr(), out.data_ptr(), rows, width, gate_up.stride(0))
        return out

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Rotate in place in one pass."""
        rows, heads, dim = x.shape
        if dim % (2 * WIDTH) or x.stride(1) != dim:
            super().rotate(x, cos, sin)
            return
        self._rotate.call(x.data_ptr(), cos.data_ptr(), sin.data_ptr(), rows, heads, dim // 2, x.stride(0))


def fast_linears() -> bool:
    """True where the linears win: 8-wide vectors with fused multiply-add, and no wider ones that torch would use."""
    features = cpu_features()
    return {"avx2", "fma"} <= features and "avx512f" not in features
