"""Words to write a kernel with: loops, locals, vectors of 8 floats. LLVM lowers the vectors to what the CPU has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

WIDTH = 8  # floats in a vector

I16, I32, I64, F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
PTR = ir.PointerType()
VEC = ir.VectorType(F32, WIDTH)
_LOG2E = 1.4426950408889634
# 2^f on [-0.5, 0.5]: Taylor's coefficients of exp(f ln 2).
_EXP2 = (1.0, 0.69314718, 0.24022651, 0.055504109, 0.0096181291, 0.0013333558, 0.00015403530)
_FAST = ("contract", "reassoc", "nsz")


def integer(value: int) -> ir.Constant:
    """Return a 64-bit constant."""
    return ir.Constant(I64, value)


def splat(value: float) -> ir.Constant:
    """Return a vector with `value` in every lane."""
    return ir.Constant(VEC, [value] * WIDTH)


def lanes(kind: ir.Type, value: int) -> ir.Constant:
    """Return a vector of integers with `value` in every lane."""
    return ir.Constant(ir.VectorType(kind, WIDTH), [value] * WIDTH)


class Emitter:
    """One function under construction. `b` is llvmlite's builder, positioned where the next instruction goes."""

    def __init__(self, name: str, arguments: Sequence[ir.Type]) -> None:
        self.module = ir.Module(name=name)
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), arguments), name=name)
        for argument in function.args:
            if argument.type == PTR:
                argument.add_attribute("noalias")
        self.args = tuple(function.args)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))

    def variable(self, kind: ir.Type, value: ir.Value) -> ir.Value:
        """A local that loops change; LLVM turns it into a register."""
        with self.b.goto_entry_block():
            place = self.b.alloca(kind)
        self.b.store(value, place)
        return place

    @contextmanager
    def loop(self, first: ir.Value, last: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """Emit `for i in range(first, last, step)` around what the body emits."""
        counter = self.variable(I64, first)
        head, body, done = (self.b.append_basic_block(name) for name in ("head", "body", "done"))
        self.b.branch(head)
        self.b.position_at_end(head)
        i = self.b.load(counter, typ=I64)
        self.b.cbranch(self.b.icmp_signed("<", i, last), body, done)
        self.b.position_at_end(body)
        yield i
        self.b.store(self.b.add(i, integer(step)), counter)
        self.b.branch(head)
        self.b.position_at_end(done)

    def at(self, base: ir.Value, kind: ir.Type, offset: ir.Value) -> ir.Value:
        """Return the address of element `offset` of an array of `kind`."""
        return self.b.gep(base, [offset], source_etype=kind)

    def load(self, base: ir.Value, kind: ir.Type, offset: ir.Value) -> ir.Value:
        """Load one element."""
        return self.b.load(self.at(base, kind, offset), typ=kind)

    def load_vector(self, base: ir.Value, offset: ir.Value) -> ir.Value:
        """Load 8 floats, not necessarily aligned."""
        return self.b.load(self.at(base, F32, offset), typ=VEC, align=4)

    def store_vector(self, value: ir.Value, base: ir.Value, offset: ir.Value) -> None:
        """Store 8 floats, not necessarily aligned."""
        self.b.store(value, self.at(base, F32, offset), align=4)

    def load_numbers(self, base: ir.Value, offset: ir.Value, bf16: bool) -> ir.Value:
        """Load 8 numbers stored as bf16 or fp32; bf16 is the upper half of an fp32."""
        if not bf16:
            return self.load_vector(base, offset)
        half = self.b.load(self.at(base, I16, offset), typ=ir.VectorType(I16, WIDTH), align=2)
        wide = self.b.zext(half, ir.VectorType(I32, WIDTH))
        return self.b.bitcast(self.b.shl(wide, lanes(I32, 16)), VEC)

    def store_numbers(self, value: ir.Value, base: ir.Value, offset: ir.Value, bf16: bool) -> None:
        """Store 8 floats as fp32, or as the nearest bf16 (ties to even; NaN is not kept)."""
        if not bf16:
            self.store_vector(value, base, offset)
            return
        b = self.b
        bits = b.bitcast(value, ir.VectorType(I32, WIDTH))
        odd = b.and_(b.lshr(bits, lanes(I32, 16)), lanes(I32, 1))
        nearest = b.lshr(b.add(bits, b.add(odd, lanes(I32, 0x7FFF))), lanes(I32, 16))
        b.store(b.trunc(nearest, ir.VectorType(I16, WIDTH)), self.at(base, I16, offset), align=2)

    def spread(self, scalar: ir.Value) -> ir.Value:
        """Put one float into every lane."""
        nothing = ir.Constant(VEC, ir.Undefined)
        return self.b.shuffle_vector(
            self.b.insert_element(nothing, scalar, ir.Constant(I32, 0)), nothing, lanes(I32, 0)
        )

    def call(self, name: str, kind: ir.Type, *arguments: ir.Value) -> ir.Value:
        """Call an LLVM intrinsic."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(kind, [a.type for a in arguments]), name=name)
        return self.b.call(function, arguments, fastmath=_FAST if kind in (F32, VEC) else ())

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a * b + c, rounded once."""
        return self.call("llvm.fma.v8f32", VEC, a, b, c)

    def total(self, vector: ir.Value) -> ir.Value:
        """Return the sum of the lanes."""
        return self.call("llvm.vector.reduce.fadd.v8f32", F32, ir.Constant(F32, -0.0), vector)

    def exp(self, x: ir.Value) -> ir.Value:
        """Return exp(x) as 2^n * 2^f, x cut to [-87, 87]: relative error below 3e-7 where it is not cut."""
        b = self.b
        y = b.fmul(x, splat(_LOG2E))
        y = self.call("llvm.maxnum.v8f32", VEC, self.call("llvm.minnum.v8f32", VEC, y, splat(126.0)), splat(-126.0))
        whole = self.call("llvm.rint.v8f32", VEC, y)
        f = b.fsub(y, whole)
        power: ir.Value = splat(_EXP2[-1])
        for coefficient in reversed(_EXP2[:-1]):
            power = self.fma(power, f, splat(coefficient))
        n = b.fptosi(whole, ir.VectorType(I32, WIDTH))
        return b.fmul(power, b.bitcast(b.shl(b.add(n, lanes(I32, 127)), lanes(I32, 23)), VEC))

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return min(a, b) of integers."""
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return max(a, b) of integers."""
        return self.b.select(self.b.icmp_signed(">", a, b), a, b)

    def prefetch(self, base: ir.Value, kind: ir.Type, offset: ir.Value) -> None:
        """Ask for a cache line that will be read soon; the address need not be valid."""
        read, locality, data = (ir.Constant(I32, value) for value in (0, 3, 1))
        self.call("llvm.prefetch.p0", ir.VoidType(), self.at(base, kind, offset), read, locality, data)
