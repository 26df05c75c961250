"""y = x @ W.T with W kept in bf16 (or fp32) and multiplied in fp32: half the memory, half the traffic decode waits for.

Weights are stored in panels of 16 outputs, [panel][in][16]. A tile of up to 6 rows by 16 outputs stays in registers.
The sum of one output runs over the inputs in order, whatever the number of rows: a row's result does not depend on its
batch.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir

from tercet.engine.jit.compiler import Compiled
from tercet.engine.jit.emitter import F32, I16, I64, PTR, VEC, WIDTH, Emitter, integer, splat

PANEL = 2 * WIDTH  # outputs of a panel
TILE_ROWS = 6  # 6 x 2 sums, 2 vectors of weights, 1 of x: 15 of AVX2's 16 registers
ROW_BLOCK = 96  # rows whose inputs stay in the second-level cache while all panels pass
DEPTH = 512  # inputs taken at a time: 16 KiB of bf16 weights, half of a first-level cache
_AHEAD = 2 * DEPTH * PANEL  # elements ahead of use at which weights are fetched


class GemmKernel:
    """The compiled kernel: call(x, w, y, rows, inputs, panels, x_stride, y_stride), strides in elements."""

    def __init__(self, bf16: bool) -> None:
        self._code = _compiled(bf16)
        self.call = self._code.call


@cache  # machine code is immutable: one copy a process
def _compiled(bf16: bool) -> Compiled:
    return Compiled(_Writer(bf16))


class _Writer(Emitter):
    def __init__(self, bf16: bool) -> None:
        super().__init__("gemm", [PTR] * 3 + [I64] * 5)
        self.bf16 = bf16
        self.x, self.w, self.y, rows, self.inputs, panels, self.x_stride, self.y_stride = self.args
        b = self.b
        with self.loop(integer(0), rows, ROW_BLOCK) as block:
            block_end = self.smaller(b.add(block, integer(ROW_BLOCK)), rows)
            with self.loop(integer(0), panels) as panel, self.loop(integer(0), self.inputs, DEPTH) as begin:
                end = self.smaller(b.add(begin, integer(DEPTH)), self.inputs)
                with self.loop(block, block_end, TILE_ROWS) as row:
                    self.any_tile(row, b.sub(block_end, row), panel, begin, end)

    def any_tile(self, row: ir.Value, left: ir.Value, panel: ir.Value, begin: ir.Value, end: ir.Value) -> None:
        b = self.b
        done = b.append_basic_block("tiled")
        full = b.append_basic_block("tile")
        cases = b.switch(left, full)
        for count in range(TILE_ROWS, 0, -1):
            if count < TILE_ROWS:
                full = b.append_basic_block("tile")
                cases.add_case(integer(count), full)
            b.position_at_end(full)
            self.tile(count, row, panel, begin, end)
            b.branch(done)
        b.position_at_end(done)

    def tile(self, count: int, row: ir.Value, panel: ir.Value, begin: ir.Value, end: ir.Value) -> None:
        """Add inputs begin .. end - 1 to `count` rows of one panel of y; the first inputs start the sums."""
        b = self.b
        halves = range(0, PANEL, WIDTH)
        rows = [b.add(row, integer(i)) for i in range(count)]
        x = [self.at(self.x, F32, b.mul(r, self.x_stride)) for r in rows]
        y = [b.add(b.mul(r, self.y_stride), b.mul(panel, integer(PANEL))) for r in rows]
        weights = b.mul(b.mul(panel, self.inputs), integer(PANEL))
        first = b.icmp_signed("==", begin, integer(0))
        sums = {}
        for i in range(count):
            for half in halves:
                # The unused load of the first round reads memory that y owns: harmless.
                before = self.load_vector(self.y, b.add(y[i], integer(half)))
                sums[i, half] = self.variable(VEC, b.select(first, splat(0.0), before))
        with self.loop(begin, end) as k:
            offset = b.add(weights, b.mul(k, integer(PANEL)))
            self.prefetch(self.w, I16 if self.bf16 else F32, b.add(offset, integer(_AHEAD)))
            w = [self.load_numbers(self.w, b.add(offset, integer(half)), self.bf16) for half in halves]
            for i in range(count):
                value = self.spread(self.load(x[i], F32, k))
                for half, weight in zip(halves, w, strict=True):
                    b.store(self.fma(value, weight, b.load(sums[i, half], typ=VEC)), sums[i, half])
        for i in range(count):
            for half in halves:
                self.store_vector(b.load(sums[i, half], typ=VEC), self.y, b.add(y[i], integer(half)))
