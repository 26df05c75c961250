"""What differs between devices: arithmetic type, kernels, where the KV pool lives."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

import torch

from tercet.core.errors import UsageError
from tercet.engine.attention import PagedOps
from tercet.engine.kv_pool import KVPool
from tercet.engine.linear import LinearOp, PackedLinear, PlainLinear, TransposedLinear, can_prepack
from tercet.engine.ops import LayerOps, TorchOps

DTYPES = ("bf16", "fp32")
PREFILL_THREADS = 2  # up to so many, one thread of the compiled prefill attention beats all threads of torch's


class DeviceBackend(Protocol):
    """The seam between the executor and a device. Implementations: CpuBackend, CudaBackend."""

    @property
    def device(self) -> torch.device:
        """Return the device that computes."""
        ...

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """Return the type that weights are rounded to, or None to keep the checkpoint's precision."""
        ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """Return the type of activations."""
        ...

    @property
    def kv_dtype(self) -> torch.dtype:
        """Return the type of keys and values in the pool."""
        ...

    @property
    def staged(self) -> bool:
        """True when the pool is on the device, so that transported blocks are copied from and to host memory."""
        ...

    @property
    def ops(self) -> LayerOps:
        """Return the small operations of a layer."""
        ...

    @property
    def kernels(self) -> str:
        """Name what computes, for logs: torch, or torch+llvm."""
        ...

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None, *, few_rows: bool = False) -> LinearOp:
        """Return the fastest x -> x @ weight.T + bias; `weight` [out, in] may be dropped by the caller afterwards.

        `few_rows` says that prefill does not come here: only sampled rows do (a language model's head).
        """
        ...

    def paged_kernels(self, pool: KVPool, heads: int) -> PagedOps | None:
        """Return compiled kernels over the pool for a model of `heads` query heads, or None: torch operators."""
        ...

    def kv_bytes(self) -> int:
        """Return how many bytes a pool may take when nobody says."""
        ...


class CpuBackend:
    """Plain CPU cores.

    With bf16 units, `bf16` is bf16 throughout: oneDNN's prepacked linears, and prefill attention compiled for the units
    (a third of torch's time). Without, it means weights and KV pool in
    bf16 and arithmetic in fp32 (emulated bf16 products run at a tenth of the speed).

    Kernels compiled by LLVM take over where llvmlite is installed: decode attention and the small operations always; on
    one thread of an AVX2 CPU the linears of fp32 arithmetic too. They read bf16 weights as they are, which halves what
    decode waits for: 1.8 times as fast as oneDNN's prepacked fp32 at 16 rows, as fast as the best at 512.
    """

    staged = False

    def __init__(
        self, dtype: str, threads: int, *, native_bf16: bool | None = None, compiled: bool | None = None
    ) -> None:
        """`native_bf16` overrides the detection of bf16 units, `compiled` that of llvmlite.

        Raises UsageError for an unknown dtype or no threads.
        """
        require_dtype(dtype)
        if threads < 1:
            raise UsageError(f"threads is {threads}: an engine needs at least 1")
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        units = can_prepack(torch.bfloat16) if native_bf16 is None else native_bf16
        half = dtype == "bf16"
        self._threads = threads
        self.device = torch.device("cpu")
        self.weight_dtype: torch.dtype | None = torch.bfloat16 if half else None
        self.kv_dtype = torch.bfloat16 if half else torch.float32
        self.compute_dtype = torch.bfloat16 if half and units else torch.float32
        self._compiled = find_spec("llvmlite") is not None if compiled is None else compiled
        self._prepack = can_prepack(self.compute_dtype)
        self.ops: LayerOps = TorchOps(self.compute_dtype)
        self._jit_linear: Callable[[torch.Tensor, torch.Tensor | None], LinearOp] | None = None
        if self._compiled:
            from tercet.engine.jit.ops import JitOps, fast_linears

            jit = JitOps(self.compute_dtype)
            self.ops = jit
            if threads == 1 and self.compute_dtype == torch.float32 and fast_linears():
                self._jit_linear = jit.linear

    @property
    def kernels(self) -> str:
        """Name what computes."""
        return "torch+llvm" if self._compiled else "torch"

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None, *, few_rows: bool = False) -> LinearOp:
        """Return a linear in the layout that won on one core, at SmolLM2's shapes.

        bf16 units: prepacked, nearly twice as fast as plain at decode's batches. fp32 in torch: transposed beats
        prepacked by 14% at 512 rows and by 20% at 1, and equals it at 16, but a vocabulary-wide head of up to 32 rows
        is prepacked. `benchmarks/engine/linears.py` measures them again.
        """
        if self._jit_linear is not None:
            return self._jit_linear(weight, bias)
        weight = weight.to(self.compute_dtype)
        bias = None if bias is None else bias.to(self.compute_dtype)
        if self._prepack and (few_rows or self.compute_dtype == torch.bfloat16):
            return PackedLinear(weight, bias)
        return (TransposedLinear if self.compute_dtype == torch.float32 else PlainLinear)(weight, bias)

    def paged_kernels(self, pool: KVPool, heads: int) -> PagedOps | None:
        """Return the compiled kernels where there are any for the shape."""
        if not self._compiled:
            return None
        from tercet.engine.jit.paged import PagedKernels

        return PagedKernels.build(pool, heads, prefill=self._threads <= PREFILL_THREADS)

    def kv_bytes(self) -> int:
        """Return 256 MiB: 11,000 tokens of SmolLM2 in bf16."""
        return 256 * 1024 * 1024


class CudaBackend:
    """One CUDA device: the pool is in its memory, host memory is the staging area of transports."""

    staged = True
    kernels = "torch"

    def __init__(self, dtype: str, device: str) -> None:
        """Raise UsageError when the dtype is unknown or there is no such device."""
        require_dtype(dtype)
        self.device = torch.device(device)
        if not torch.cuda.is_available() or (self.device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
        self.weight_dtype: torch.dtype | None = torch.bfloat16 if dtype == "bf16" else None
        self.kv_dtype = torch.bfloat16 if dtype == "bf16" else torch.float32
        self.compute_dtype = self.kv_dtype
        self.ops: LayerOps = TorchOps(self.compute_dtype)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None, *, few_rows: bool = False) -> LinearOp:
        """Return a plain linear: the CUDA libraries choose their own layout."""
        return PlainLinear(
            weight.to(self.device, self.compute_dtype),
            None if bias is None else bias.to(self.device, self.compute_dtype),
        )

    def paged_kernels(self, pool: KVPool, heads: int) -> PagedOps | None:
        """Return None: torch operators."""
        return None

    def kv_bytes(self) -> int:
        """Return half of the free memory, 8 GiB at most: host memory has to hold as much."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return min(int(free) // 2, 8 * 1024**3)


def require_dtype(dtype: str) -> None:
    """Raise UsageError unless `dtype` is one the engine knows."""
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")


def make_backend(device: str, dtype: str, threads: int) -> DeviceBackend:
    """Return the backend for `cpu`, `cpu:N` (pinning to core N is the caller's business) or `cuda:N`."""
    makers: dict[str, Callable[[], DeviceBackend]] = {
        "cpu": lambda: CpuBackend(dtype, threads),
        "cuda": lambda: CudaBackend(dtype, device),
    }
    kind = device.partition(":")[0]
    if kind not in makers:
        raise UsageError(f"unknown device {device!r}: write cpu, cpu:N or cuda:N")
    return makers[kind]()
