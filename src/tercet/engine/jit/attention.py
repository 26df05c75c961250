"""Decode attention in one pass over the paged keys and values, in the pool's own precision.

In torch operators the same takes a gather, a conversion and two skinny matrix products: several times the memory
traffic, and memory is what decode waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from llvmlite import ir

from tercet.engine.jit.compiler import Compiled
from tercet.engine.jit.emitter import F32, I16, I64, PTR, VEC, WIDTH, Emitter, integer, splat

ACCUMULATORS = 12  # vector registers for sums; the others hold a row and a weight
_LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """What a kernel is compiled for. `groups` query heads share a KV head; `bf16`: the pool's type, else fp32."""

    kv_heads: int
    groups: int
    head_dim: int
    block_size: int
    block_elements: int
    bf16: bool

    @property
    def supported(self) -> bool:
        """True when rows are whole vectors and one vector of each query fits the registers."""
        return self.head_dim % WIDTH == 0 and self.groups <= ACCUMULATORS

    @property
    def query_elements(self) -> int:
        """Numbers of one token's queries, and of its answer."""
        return self.kv_heads * self.groups * self.head_dim


class DecodeKernel:
    """The compiled kernel.

    call(q, out, pool, tables, lengths, scratch, sequences, table_width, q_stride, window, scale):
    q [sequences, q_stride] fp32, its first query_elements are the queries; out [sequences, query_elements] fp32;
    pool: the layer's first element in block 0; tables [sequences, table_width] int64 block numbers; lengths [sequences]
    int64 tokens to attend to; scratch: scratch_elements(table_width) fp32; window: 0, or how many last tokens are seen.
    """

    def __init__(self, shape: DecodeShape) -> None:
        self.shape = shape
        self._code = _compiled(shape)
        self.call = self._code.call

    def scratch_elements(self, table_width: int) -> int:
        """Return how many floats of working memory a call needs."""
        return self.shape.groups * (table_width * self.shape.block_size + WIDTH)


@cache  # machine code is immutable: one copy a process
def _compiled(shape: DecodeShape) -> Compiled:
    return Compiled(_Writer(shape))


class _Writer(Emitter):
    def __init__(self, shape: DecodeShape) -> None:
        super().__init__("decode_attention", [PTR] * 6 + [I64] * 4 + [F32])
        self.shape = shape
        (self.q, self.out, self.pool, self.tables, self.lengths, self.scratch) = self.args[:6]
        (self.sequences, self.table_width, self.q_stride, self.window, self.scale) = self.args[6:]
        self.stride = self.b.add(self.b.mul(self.table_width, integer(shape.block_size)), integer(WIDTH))
        with self.loop(integer(0), self.sequences) as sequence:
            self.sequence(sequence)

    def sequence(self, s: ir.Value) -> None:
        shape, b = self.shape, self.b
        length = self.load(self.lengths, I64, s)
        limited = b.icmp_signed(">", self.window, integer(0))
        low = b.select(limited, self.larger(b.sub(length, self.window), integer(0)), integer(0))
        table = self.at(self.tables, I64, b.mul(s, self.table_width))
        with self.loop(integer(0), integer(shape.kv_heads)) as head:
            offset = b.mul(head, integer(shape.groups * shape.head_dim))
            query = self.at(self.q, F32, b.add(b.mul(s, self.q_stride), offset))
            out = self.at(self.out, F32, b.add(b.mul(s, integer(shape.query_elements)), offset))
            keys = b.mul(head, integer(shape.block_size * shape.head_dim))
            peaks = self.scores(table, low, length, query, keys)
            sums = self.weights(low, length, peaks)
            self.mix(table, low, length, out, b.add(keys, self.to_values()), sums)

    def to_values(self) -> ir.Constant:
        """Elements from a key to its value."""
        return integer(self.shape.kv_heads * self.shape.block_size * self.shape.head_dim)

    def score_at(self, group: int, t: ir.Value) -> ir.Value:
        return self.b.add(self.b.mul(integer(group), self.stride), t)

    @contextmanager
    def tokens(
        self, table: ir.Value, low: ir.Value, length: ir.Value, row: ir.Value, *, ahead: bool = False
    ) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Loop over tokens low .. length - 1; gives (token - low, the element offset of its row in the pool).

        `ahead` fetches into the cache what comes next: the next block's keys, and the values of this one. Blocks lie
        far apart, so the hardware can't guess.
        """
        b, shape = self.b, self.shape
        size = integer(shape.block_size)
        blocks = b.sdiv(b.add(length, integer(shape.block_size - 1)), size)

        def base(number: ir.Value) -> ir.Value:
            return b.add(b.mul(self.load(table, I64, number), integer(shape.block_elements)), row)

        with self.loop(b.sdiv(low, size), blocks) as i:
            this, start = base(i), b.mul(i, size)
            following = base(self.smaller(b.add(i, integer(1)), b.sub(blocks, integer(1)))) if ahead else None
            with self.loop(self.larger(start, low), self.smaller(b.add(start, size), length)) as t:
                inside = b.mul(b.sub(t, start), integer(shape.head_dim))
                if following is not None:
                    self.fetch_row(b.add(following, inside))
                    self.fetch_row(b.add(b.add(this, inside), self.to_values()))
                yield b.sub(t, low), b.add(this, inside)

    def fetch_row(self, offset: ir.Value) -> None:
        kind, size = (I16, 2) if self.shape.bf16 else (F32, 4)
        for element in range(0, self.shape.head_dim, _LINE_BYTES // size):
            self.prefetch(self.pool, kind, self.b.add(offset, integer(element)))

    def scores(
        self, table: ir.Value, low: ir.Value, length: ir.Value, query: ir.Value, row: ir.Value
    ) -> list[ir.Value]:
        """scratch[j][t] = scale * q[j] . k[t]; returns the places of the largest score of each j."""
        b = self.b
        groups = range(self.shape.groups)
        peaks = [self.variable(F32, ir.Constant(F32, float("-inf"))) for _ in groups]
        with self.tokens(table, low, length, row, ahead=True) as (t, offset):
            sums: list[ir.Value] = [splat(0.0) for _ in groups]
            for i in range(0, self.shape.head_dim, WIDTH):
                key = self.load_numbers(self.pool, b.add(offset, integer(i)), self.shape.bf16)
                for j in groups:
                    part = self.load_vector(query, integer(j * self.shape.head_dim + i))
                    sums[j] = self.fma(key, part, sums[j])
            for j in groups:
                score = b.fmul(self.total(sums[j]), self.scale)
                b.store(score, self.at(self.scratch, F32, self.score_at(j, t)))
                peak = b.load(peaks[j], typ=F32)
                b.store(b.select(b.fcmp_ordered(">", score, peak), score, peak), peaks[j])
        return peaks

    def weights(self, low: ir.Value, length: ir.Value, peaks: list[ir.Value]) -> list[ir.Value]:
        """scratch[j][t] = exp(scratch[j][t] - peak[j]); returns the sums over t."""
        b = self.b
        count = b.sub(length, low)
        sums = []
        for j, place in enumerate(peaks):
            # The last vector reaches beyond the last token: what is there must weigh nothing.
            self.store_vector(splat(-1e30), self.scratch, self.score_at(j, count))
            peak = self.spread(b.load(place, typ=F32))
            total = self.variable(VEC, splat(0.0))
            with self.loop(integer(0), count, WIDTH) as t:
                weight = self.exp(b.fsub(self.load_vector(self.scratch, self.score_at(j, t)), peak))
                self.store_vector(weight, self.scratch, self.score_at(j, t))
                b.store(b.fadd(b.load(total, typ=VEC), weight), total)
            sums.append(self.total(b.load(total, typ=VEC)))
        return sums

    def mix(
        self, table: ir.Value, low: ir.Value, length: ir.Value, out: ir.Value, row: ir.Value, sums: list[ir.Value]
    ) -> None:
        """out[j] = sum over t of scratch[j][t] * v[t] / sums[j], as many columns at a time as there are registers."""
        b, shape = self.b, self.shape
        groups = range(shape.groups)
        columns = max(1, ACCUMULATORS // shape.groups) * WIDTH
        inverse = [self.spread(b.fdiv(ir.Constant(F32, 1.0), total)) for total in sums]
        for first in range(0, shape.head_dim, columns):
            parts = range(first, min(first + columns, shape.head_dim), WIDTH)
            totals = {(j, i): self.variable(VEC, splat(0.0)) for j in groups for i in parts}
            with self.tokens(table, low, length, row) as (t, offset):
                values = {i: self.load_numbers(self.pool, b.add(offset, integer(i)), shape.bf16) for i in parts}
                for j in groups:
                    weight = self.spread(self.load(self.scratch, F32, self.score_at(j, t)))
                    for i in parts:
                        b.store(self.fma(weight, values[i], b.load(totals[j, i], typ=VEC)), totals[j, i])
            for j in groups:
                for i in parts:
                    result = b.fmul(b.load(totals[j, i], typ=VEC), inverse[j])
                    self.store_vector(result, out, integer(j * shape.head_dim + i))
