"""Prefill attention over the paged keys and values with a CPU's bf16 dot products (AVX512-BF16).

torch's fused attention goes through a general matrix product for every small piece of a tile: it takes three times as
long as the two products and the exponentials need. Here keys and values of one head are laid out once as the dot
product wants them, pairs of numbers side by side, and each tile of queries passes over them with its sums in registers.

Products are of bf16 numbers, sums and weights fp32; the weights are rounded to bf16 to meet the values, as torch does.
A row's sums run over the keys from the first to the last, so an answer does not depend on how a prompt was chunked.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir

from tercet.engine.jit.attention import DecodeShape
from tercet.engine.jit.compiler import Compiled, cpu_features
from tercet.engine.jit.emitter import F32, I16, I32, I64, PTR, VEC, WIDTH, Emitter, integer, lanes, splat

TILE = 6  # queries of a tile: 6 x 4 sums, 4 vectors of keys or values, in 32 registers
LANES = 16  # sums in a vector
PANEL = 4 * LANES  # keys, or columns of values, of a tile
PAIR = 2  # numbers that one lane multiplies at once
_PADDING = 16  # between rows of scores: rows a power of two apart would fight for the same cache lines
_HIDDEN = -1e30  # the score of a key that a query may not see


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's bf16, which llvmlite has no name for."""

    def __str__(self) -> str:
        return "bfloat"


_SUMS = ir.VectorType(F32, LANES)
_WORDS = ir.VectorType(I32, LANES)  # 16 pairs of bf16
_PAIRS = ir.VectorType(_BFloat(), LANES * PAIR)
_HALVES = ir.VectorType(I16, LANES)


class PrefillKernel:
    """The compiled kernel.

    call(q, out, pool, table, keys, values, scores, weights, rows, start, q_stride, window, scale):
    q [rows, q_stride] bf16, its first query_elements are the queries of the tokens at positions start, start + 1, ...;
    out [rows, query_elements] bf16; pool: the layer's first element in block 0; table: int64 block numbers of the
    tokens 0 .. start + rows - 1; then working memory of `scratch_elements`; window: 0, or how many last tokens are
    seen; scale > 0.
    """

    def __init__(self, shape: DecodeShape) -> None:
        self.shape = shape
        self._code = _compiled(shape)
        self.call = self._code.call

    @staticmethod
    def supports(shape: DecodeShape) -> bool:
        """True on a CPU with bf16 dot products, for a bf16 pool whose rows are whole vectors of them."""
        whole = shape.head_dim % LANES == 0 and shape.block_size % PAIR == 0
        return shape.bf16 and whole and {"avx512f", "avx512bf16"} <= cpu_features()

    def scratch_elements(self, context: int) -> tuple[int, int, int, int]:
        """Return how many numbers `keys` (bf16), `values` (bf16), `scores` (fp32) and `weights` (bf16) must hold."""
        padded = -(-context // PANEL) * PANEL
        tile = TILE * (padded + _PADDING)
        return padded * self.shape.head_dim, padded * self.shape.head_dim, tile, tile


@cache  # machine code is immutable: one copy a process
def _compiled(shape: DecodeShape) -> Compiled:
    return Compiled(_Writer(shape))


class _Writer(Emitter):
    def __init__(self, shape: DecodeShape) -> None:
        super().__init__("prefill_attention", [PTR] * 8 + [I64] * 4 + [F32])
        self.shape = shape
        (self.q, self.out, self.pool, self.table, self.keys, self.values, self.scores, self.weights) = self.args[:8]
        (rows, self.start, self.q_stride, self.window, self.scale) = self.args[8:]
        b = self.b
        with b.goto_entry_block():
            self.inverse = b.alloca(F32, TILE)  # of each query's sum of weights
        self.context = b.add(self.start, rows)
        self.stride = b.add(self.rounded_up(self.context, PANEL), integer(_PADDING))
        first_panel = b.sdiv(self.lowest(self.start), integer(PANEL))
        # The queries that share a KV head, of all rows: row by row, so a tile's queries see nearly the same keys.
        queries = b.mul(rows, integer(shape.groups))
        with self.loop(integer(0), integer(shape.kv_heads)) as head:
            self.lay_out(head, b.mul(first_panel, integer(PANEL)))
            with self.loop(integer(0), queries, TILE) as first:
                self.tile(head, first, queries)

    def rounded_up(self, value: ir.Value, multiple: int) -> ir.Value:
        return self.b.mul(self.b.sdiv(self.b.add(value, integer(multiple - 1)), integer(multiple)), integer(multiple))

    def lowest(self, position: ir.Value) -> ir.Value:
        """Return the first key that the query at `position` sees."""
        b = self.b
        limited = b.icmp_signed(">", self.window, integer(0))
        low = self.larger(b.add(b.sub(position, self.window), integer(1)), integer(0))
        return b.select(limited, low, integer(0))

    def lay_out(self, head: ir.Value, first: ir.Value) -> None:
        """Copy one head from token `first` on, a multiple of PANEL, into `keys` and `values`.

        keys: [panel][pair of dimensions][PANEL keys][2]; values: [pair of tokens][dimensions][2].
        """
        b, shape = self.b, self.shape
        size, dim = integer(shape.block_size), integer(shape.head_dim)
        row = b.mul(head, integer(shape.block_size * shape.head_dim))
        to_values = integer(shape.kv_heads * shape.block_size * shape.head_dim)
        with self.loop(b.sdiv(first, size), b.sdiv(self.rounded_up(self.context, shape.block_size), size)) as i:
            block = b.add(b.mul(self.load(self.table, I64, i), integer(shape.block_elements)), row)
            begin = b.mul(i, size)
            end = self.smaller(b.add(begin, size), self.context)
            with self.loop(self.larger(begin, first), end) as t:
                source = b.add(block, b.mul(b.sub(t, begin), dim))
                panel = b.mul(b.sdiv(t, integer(PANEL)), integer(PANEL * shape.head_dim // PAIR))
                place = b.add(panel, b.srem(t, integer(PANEL)))
                for d in range(0, shape.head_dim // PAIR, WIDTH):
                    address = self.at(self.pool, I16, b.add(source, integer(d * PAIR)))
                    pairs = b.load(address, typ=ir.VectorType(I32, WIDTH), align=2)
                    for lane in range(WIDTH):
                        pair = b.extract_element(pairs, ir.Constant(I32, lane))
                        b.store(pair, self.at(self.keys, I32, b.add(place, integer((d + lane) * PANEL))))
            with self.loop(self.larger(begin, first), end, PAIR) as t:
                source = b.add(b.add(block, to_values), b.mul(b.sub(t, begin), dim))
                # Beyond the context the pool holds anything, NaN too: a weight of zero would not silence it.
                both = b.icmp_signed("<", b.add(t, integer(1)), self.context)
                for d in range(0, shape.head_dim, LANES):
                    one = self.load_halves(b.add(source, integer(d)))
                    other = self.load_halves(b.add(source, integer(shape.head_dim + d)))
                    other = b.select(both, other, ir.Constant(_HALVES, [0] * LANES))
                    order = [lane + LANES * side for lane in range(LANES) for side in range(PAIR)]
                    pairs = b.shuffle_vector(one, other, ir.Constant(ir.VectorType(I32, len(order)), order))
                    place = b.add(b.mul(t, dim), integer(d * PAIR))
                    b.store(pairs, self.at(self.values, I16, place), align=2)

    def load_halves(self, offset: ir.Value) -> ir.Value:
        return self.b.load(self.at(self.pool, I16, offset), typ=_HALVES, align=2)

    def tile(self, head: ir.Value, first: ir.Value, queries: ir.Value) -> None:
        """Answer TILE queries of one KV head from query `first` on; beyond the last one, the last one again."""
        b, shape = self.b, self.shape
        last = b.sub(queries, integer(1))
        rows, queries_at, outs_at = [], [], []
        for i in range(TILE):
            query = self.smaller(b.add(first, integer(i)), last)
            row, group = b.sdiv(query, integer(shape.groups)), b.srem(query, integer(shape.groups))
            inside = b.mul(b.add(b.mul(head, integer(shape.groups)), group), integer(shape.head_dim))
            rows.append(row)
            queries_at.append(self.at(self.q, I16, b.add(b.mul(row, self.q_stride), inside)))
            outs_at.append(b.add(b.mul(row, integer(shape.query_elements)), inside))
        low = b.sdiv(self.lowest(b.add(self.start, rows[0])), integer(PANEL))
        end = b.add(b.add(self.start, rows[-1]), integer(1))
        with self.loop(low, b.sdiv(self.rounded_up(end, PANEL), integer(PANEL))) as panel:
            place = b.mul(panel, integer(PANEL))
            keys = self.at(self.keys, I16, b.mul(place, integer(shape.head_dim)))
            pairs = (integer(0), integer(shape.head_dim // PAIR))
            for i, sums in enumerate(self.products(queries_at, keys, pairs, PANEL, PANEL)):
                for lane, total in zip(range(0, PANEL, LANES), sums, strict=True):
                    self.store_vector(total, self.scores, b.add(self.row_at(i), b.add(place, integer(lane))))
        begin = b.mul(low, integer(PANEL))
        with self.loop(integer(0), integer(TILE)) as index:
            query = self.smaller(b.add(first, index), last)
            self.softmax(index, b.add(self.start, b.sdiv(query, integer(shape.groups))), begin, end)
        weights = [self.at(self.weights, I16, self.row_at(i)) for i in range(TILE)]
        pairs = (b.sdiv(begin, integer(PAIR)), b.sdiv(b.add(end, integer(1)), integer(PAIR)))
        for column in range(0, shape.head_dim, PANEL):
            columns = min(PANEL, shape.head_dim - column)
            values = self.at(self.values, I16, integer(column * PAIR))
            for i, sums in enumerate(self.products(weights, values, pairs, columns, shape.head_dim)):
                inverse = self.spread(self.load(self.inverse, F32, integer(i)))
                for lane, total in zip(range(column, column + columns, LANES), sums, strict=True):
                    for half in range(0, LANES, WIDTH):
                        indices = ir.Constant(ir.VectorType(I32, WIDTH), list(range(half, half + WIDTH)))
                        part = b.shuffle_vector(total, total, indices)
                        self.store_numbers(
                            b.fmul(part, inverse), self.out, b.add(outs_at[i], integer(lane + half)), bf16=True
                        )

    def row_at(self, index: int | ir.Value) -> ir.Value:
        """Return the first element of a query's scores, and of its weights."""
        return self.b.mul(integer(index) if isinstance(index, int) else index, self.stride)

    def products(
        self, rows: list[ir.Value], columns: ir.Value, pairs: tuple[ir.Value, ir.Value], width: int, stride: int
    ) -> list[list[ir.Value]]:
        """Multiply TILE `rows` of bf16 with `width` columns laid out as [pair][stride][2]; sums over `pairs`."""
        b = self.b
        parts = range(0, width, LANES)
        zero = ir.Constant(_SUMS, [0.0] * LANES)
        places = [[self.variable(_SUMS, zero) for _ in parts] for _ in rows]
        with self.loop(*pairs) as pair:
            line = b.mul(pair, integer(stride))
            right = [
                b.bitcast(b.load(self.at(columns, I32, b.add(line, integer(p))), typ=_WORDS, align=4), _PAIRS)
                for p in parts
            ]
            for row, sums in zip(rows, places, strict=True):
                left = self.load_everywhere(row, pair)
                for place, other in zip(sums, right, strict=True):
                    before = b.load(place, typ=_SUMS)
                    b.store(self.call("llvm.x86.avx512bf16.dpbf16ps.512", _SUMS, before, left, other), place)
        return [[b.load(place, typ=_SUMS) for place in sums] for sums in places]

    def load_everywhere(self, row: ir.Value, pair: ir.Value) -> ir.Value:
        """Load one pair of a row into every lane."""
        word = self.b.load(self.at(row, I32, pair), typ=I32, align=2)
        nothing = ir.Constant(_WORDS, ir.Undefined)
        alone = self.b.insert_element(nothing, word, ir.Constant(I32, 0))
        return self.b.bitcast(self.b.shuffle_vector(alone, nothing, ir.Constant(_WORDS, [0] * LANES)), _PAIRS)

    def softmax(self, index: ir.Value, position: ir.Value, begin: ir.Value, end: ir.Value) -> None:
        """weights[t] = exp(scale * (scores[t] - peak)) of one query for begin <= t < end, zero where it may not look.

        Keeps the inverse of their sum.
        """
        b = self.b
        row = self.row_at(index)
        visible, low = b.add(position, integer(1)), self.lowest(position)
        self.hide(row, b.sub(visible, b.srem(visible, integer(WIDTH))), end, low, visible)
        self.hide(row, begin, low, low, visible)
        peaks = self.variable(VEC, splat(_HIDDEN))
        with self.loop(begin, end, WIDTH) as t:
            score = self.load_vector(self.scores, b.add(row, t))
            b.store(self.call("llvm.maxnum.v8f32", VEC, b.load(peaks, typ=VEC), score), peaks)
        peak = self.spread(self.call("llvm.vector.reduce.fmax.v8f32", F32, b.load(peaks, typ=VEC)))
        scale = self.spread(self.scale)
        total = self.variable(VEC, splat(0.0))
        with self.loop(begin, end, WIDTH) as t:
            score = self.load_vector(self.scores, b.add(row, t))
            weight = self.exp(b.fmul(b.fsub(score, peak), scale))
            b.store(b.fadd(b.load(total, typ=VEC), weight), total)
            self.store_numbers(weight, self.weights, b.add(row, t), bf16=True)
        whole = self.total(b.load(total, typ=VEC))
        b.store(b.fdiv(ir.Constant(F32, 1.0), whole), self.at(self.inverse, F32, index))

    def hide(self, row: ir.Value, begin: ir.Value, end: ir.Value, low: ir.Value, visible: ir.Value) -> None:
        """Hide what lies outside low .. visible - 1 in the vectors of scores from `begin` to `end`."""
        b = self.b
        with self.loop(begin, end, WIDTH) as t:
            place = b.add(row, t)
            numbers = b.add(self.spread_integer(t), ir.Constant(ir.VectorType(I32, WIDTH), list(range(WIDTH))))
            above = b.icmp_signed(">=", numbers, self.spread_integer(low))
            seen = b.and_(above, b.icmp_signed("<", numbers, self.spread_integer(visible)))
            self.store_vector(b.select(seen, self.load_vector(self.scores, place), splat(_HIDDEN)), self.scores, place)

    def spread_integer(self, value: ir.Value) -> ir.Value:
        """Put a 64-bit integer below 2^31 into every lane."""
        nothing = ir.Constant(ir.VectorType(I32, WIDTH), ir.Undefined)
        alone = self.b.insert_element(nothing, self.b.trunc(value, I32), ir.Constant(I32, 0))
        return self.b.shuffle_vector(alone, nothing, lanes(I32, 0))
