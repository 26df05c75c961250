"""Norm, gate and rotation, each in one pass over its data."""

from __future__ import annotations

from llvmlite import ir

from tercet.engine.jit.emitter import F32, I64, PTR, VEC, WIDTH, Emitter, integer, splat


class AddNormWriter(Emitter):
    """add_norm(hidden, delta, weight, out, rows, width, delta_stride, has_delta, eps): rows of `width` numbers.

    hidden += delta (when has_delta is not 0); out = hidden / sqrt(mean(hidden^2) + eps) * weight. `bf16`: delta and out
    are; hidden and weight are fp32.
    """

    def __init__(self, bf16: bool) -> None:
        super().__init__("add_norm", [PTR] * 4 + [I64] * 4 + [F32])
        hidden, delta, weight, out, rows, width, delta_stride, has_delta, eps = self.args
        b = self.b
        with self.loop(integer(0), rows) as row:
            start = b.mul(row, width)
            squares = self.variable(VEC, splat(0.0))
            with b.if_else(b.icmp_signed("!=", has_delta, integer(0))) as (adding, plain):
                with adding, self.loop(integer(0), width, WIDTH) as i:
                    there = b.add(start, i)
                    change = self.load_numbers(delta, b.add(b.mul(row, delta_stride), i), bf16)
                    value = b.fadd(self.load_vector(hidden, there), change)
                    self.store_vector(value, hidden, there)
                    b.store(self.fma(value, value, b.load(squares, typ=VEC)), squares)
                with plain, self.loop(integer(0), width, WIDTH) as i:
                    value = self.load_vector(hidden, b.add(start, i))
                    b.store(self.fma(value, value, b.load(squares, typ=VEC)), squares)
            mean = b.fdiv(self.total(b.load(squares, typ=VEC)), b.sitofp(width, F32))
            root = self.call("llvm.sqrt.f32", F32, b.fadd(mean, eps))
            factor = self.spread(b.fdiv(ir.Constant(F32, 1.0), root))
            with self.loop(integer(0), width, WIDTH) as i:
                there = b.add(start, i)
                value = b.fmul(self.load_vector(hidden, there), factor)
                self.store_numbers(b.fmul(value, self.load_vector(weight, i)), out, there, bf16)


class GateWriter(Emitter):
    """gate(gate_up, out, rows, width, stride): out[r] = silu(gate_up[r, :width]) * gate_up[r, width : 2 * width]."""

    def __init__(self, bf16: bool) -> None:
        super().__init__("gate", [PTR] * 2 + [I64] * 3)
        gate_up, out, rows, width, stride = self.args
        b = self.b
        with self.loop(integer(0), rows) as row:
            start = b.mul(row, stride)
            with self.loop(integer(0), width, WIDTH) as i:
                gate = self.load_numbers(gate_up, b.add(start, i), bf16)
                up = self.load_numbers(gate_up, b.add(b.add(start, width), i), bf16)
                sigmoid = b.fdiv(splat(1.0), b.fadd(splat(1.0), self.exp(b.fneg(gate))))
                self.store_numbers(b.fmul(b.fmul(gate, sigmoid), up), out, b.add(b.mul(row, width), i), bf16)


class RotateWriter(Emitter):
    """rotate(x, cos, sin, rows, heads, half, stride): rows of `heads` heads of 2 * half numbers, `stride` apart.

    (a, b) -> (a cos - b sin, b cos + a sin), a in the first half of a head and b in the second; cos, sin [rows, half]
    fp32.
    """

    def __init__(self, bf16: bool) -> None:
        super().__init__("rotate", [PTR] * 3 + [I64] * 4)
        x, cos, sin, rows, heads, half, stride = self.args
        b = self.b
        with self.loop(integer(0), rows) as row, self.loop(integer(0), heads) as head:
            start = b.add(b.mul(row, stride), b.mul(head, b.mul(half, integer(2))))
            with self.loop(integer(0), half, WIDTH) as i:
                angle = b.add(b.mul(row, half), i)
                c, s = self.load_vector(cos, angle), self.load_vector(sin, angle)
                low, high = b.add(start, i), b.add(b.add(start, half), i)
                first, second = (self.load_numbers(x, place, bf16) for place in (low, high))
                self.store_numbers(b.fsub(b.fmul(first, c), b.fmul(second, s)), x, low, bf16)
                self.store_numbers(b.fadd(b.fmul(second, c), b.fmul(first, s)), x, high, bf16)
