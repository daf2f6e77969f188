"""Numbers of a function under construction, single or in every lane of a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from konv.llvm.lang import I64, Number, Value, is_real, scalar_type

if TYPE_CHECKING:
    from konv.llvm.function import Module


class Numbers:
    """A function under construction: constants, conversions, choices and products. `b` is
    llvmlite's builder, for what has no word here.
    """

    def __init__(self, module: Module, fn: ir.Function) -> None:
        self.module, self.fn = module, fn
        self.b = ir.IRBuilder(fn.append_basic_block("entry"))

    def constant(self, ty: ir.Type, number: Number) -> Value:
        """A number of any type; of a vector, in every lane."""
        filled = [number] * ty.count if isinstance(ty, ir.VectorType) else number
        return Value(self, ir.Constant(ty, filled))

    def bits(self, value: Value, element: ir.Type) -> Value:
        """The same bits as numbers of another type of the same size, lane by lane."""
        return Value(self, self.b.bitcast(value.ir, like(value.type, scalar_type(element))))

    def extend(self, value: Value, element: ir.Type) -> Value:
        """Numbers as a wider type that holds them all: reals as reals, bits as bits above 0."""
        longer = self.b.fpext if is_real(value.type) else self.b.zext
        return Value(self, longer(value.ir, like(value.type, element)))

    def shorten(self, value: Value, element: ir.Type) -> Value:
        """Reals rounded to a narrower type, integers without their upper bits."""
        shorter = self.b.fptrunc if is_real(value.type) else self.b.trunc
        return Value(self, shorter(value.ir, like(value.type, element)))

    def to_real(self, value: Value, element: ir.Type) -> Value:
        """Integers, with their sign, as reals."""
        return Value(self, self.b.sitofp(value.ir, like(value.type, element)))

    def absolute(self, x: Value) -> Value:
        """Reals without their sign."""
        intrinsic = self.module.declare(f"llvm.fabs.{suffix(x.type)}", x.type, [x.type])
        return Value(self, self.b.call(intrinsic, [x.ir]))

    def integer(self, value: Value | int) -> Value:
        return value if isinstance(value, Value) else Value(self, I64(value))

    def select(self, condition: Value, yes: Value, no: Value | Number) -> Value:
        return Value(self, self.b.select(condition.ir, yes.ir, yes.lift(no)))

    def least(self, a: Value, b: Value | int) -> Value:
        return self.select(a < b, a, b)

    def most(self, a: Value, b: Value | int) -> Value:
        return self.select(a > b, a, self.integer(b))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, with one rounding wherever the machine has an instruction for it.

        `llvm.fma` would call the C library on a machine without one; IRBuilder.fma refuses vectors.
        """
        name = f"llvm.fmuladd.{suffix(a.type)}"
        intrinsic = self.module.declare(name, a.type, [a.type] * 3)
        return Value(self, self.b.call(intrinsic, [a.ir, b.ir, c.ir]))

    def regard(self, value: Value, element: ir.Type, count: int) -> Value:
        """The bits of a vector as `count` elements of another type."""
        return Value(self, self.b.bitcast(value.ir, ir.VectorType(element, count)))


def like(ty: ir.Type, element: ir.Type) -> ir.Type:
    """The type with as many lanes, of other elements."""
    return ir.VectorType(element, ty.count) if isinstance(ty, ir.VectorType) else element


def suffix(ty: ir.Type) -> str:
    """How intrinsics spell a type: f32, v8f32."""
    names = {"float": "f32", "double": "f64", "i64": "i64", "i32": "i32", "i16": "i16"}
    name = names[str(scalar_type(ty))]
    return f"v{ty.count}{name}" if isinstance(ty, ir.VectorType) else name
