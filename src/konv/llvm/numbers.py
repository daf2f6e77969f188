"""Numbers of a function under construction, single or in every lane of a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from konv.llvm.builder import Builder, Routine
from konv.llvm.lang import Value
from konv.llvm.types import F32, F64, I16, I32, I64, Number, Type, like, vector

if TYPE_CHECKING:
    from konv.llvm.function import Module


class Numbers:
    """A function under construction: constants, conversions, choices and products. `b` is
    the builder of instructions, for what has no word here.
    """

    def __init__(self, module: Module, fn: Routine) -> None:
        self.module, self.fn = module, fn
        self.b = Builder(fn)

    def constant(self, ty: Type, number: Number) -> Value:
        """A number of any type; of a vector, in every lane."""
        return Value(self, ty(number))

    def bits(self, value: Value, element: Type) -> Value:
        """The same bits as numbers of another type of the same size, lane by lane."""
        return Value(self, self.b.convert("bitcast", value.ir, like(value.type, element.element)))

    def extend(self, value: Value, element: Type) -> Value:
        """Numbers as a wider type that holds them all: reals as reals, bits as bits above 0."""
        return self._convert("fpext" if value.type.real else "zext", value, element)

    def shorten(self, value: Value, element: Type) -> Value:
        """Reals rounded to a narrower type, integers without their upper bits."""
        return self._convert("fptrunc" if value.type.real else "trunc", value, element)

    def to_real(self, value: Value, element: Type) -> Value:
        """Integers, with their sign, as reals."""
        return self._convert("sitofp", value, element)

    def _convert(self, op: str, value: Value, element: Type) -> Value:
        return Value(self, self.b.convert(op, value.ir, like(value.type, element)))

    def absolute(self, x: Value) -> Value:
        """Reals without their sign."""
        intrinsic = self.module.declare(f"llvm.fabs.{suffix(x.type)}", x.type, [x.type])
        return Value(self, self.b.call(intrinsic, [x.ir]))

    def root(self, x: Value) -> Value:
        """The square root of reals."""
        intrinsic = self.module.declare(f"llvm.sqrt.{suffix(x.type)}", x.type, [x.type])
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

        `llvm.fma` would call the C library on a machine without one.
        """
        name = f"llvm.fmuladd.{suffix(a.type)}"
        intrinsic = self.module.declare(name, a.type, [a.type] * 3)
        return Value(self, self.b.call(intrinsic, [a.ir, b.ir, c.ir]))

    def regard(self, value: Value, element: Type, count: int) -> Value:
        """The bits of a vector as `count` elements of another type."""
        return Value(self, self.b.convert("bitcast", value.ir, vector(element, count)))


_SHORT = {F32: "f32", F64: "f64", I64: "i64", I32: "i32", I16: "i16"}


def suffix(ty: Type) -> str:
    """How intrinsics spell a type: f32, v8f32."""
    name = _SHORT[ty.element]
    return f"v{ty.count}{name}" if ty.count else name
