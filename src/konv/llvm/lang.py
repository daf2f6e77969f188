"""The kernel language: numbers, pointers and variables that read like Python and become LLVM IR.

    value       a number or a vector; + - * // % < <= == & | >> << do what they say, Python numbers
                are lifted
    pointer     p[i] loads, p[i] = v stores, p + i moves, all counted in elements; p.vector(i, n)
                loads n of them
    variable    a mutable local: v.get(), v.set(x), v.add(x); LLVM turns it into a register
    function    `with f.loop(n) as i:`, `with f.when(cond):`, f.fma, f.splat, f.select, f.shuffle,
                f.call

A kernel is written once in Python and unrolled in Python; LLVM is asked to allocate registers and
to schedule, not to guess. Nothing here knows what a convolution is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from konv.llvm.types import (
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    PTR,
    Number,
    Operand,
    Type,
    vector,
)

if TYPE_CHECKING:
    from konv.llvm.numbers import Numbers

# What numbers of a dtype are in a register.
REAL = {"float32": F32, "float64": F64, "float16": F32, "bfloat16": F32}
INTEGER = {F32: I32, F64: I64}  # as wide as a number
SIZE = {I8: 1, I16: 2, I32: 4, I64: 8, F32: 4, F64: 8, PTR: 8}


class Value:
    """An integer, a real or a vector in a register."""

    __slots__ = ("f", "ir")

    def __init__(self, f: Numbers, value: Operand) -> None:
        self.f, self.ir = f, value

    @property
    def type(self) -> Type:
        return self.ir.type

    @property
    def lanes(self) -> int:
        """Lanes of a vector; 0 for a single number."""
        return self.ir.type.count

    def lift(self, other: Value | Number) -> Operand:
        """`other` as an operand of this value's type; a Python number fills every lane."""
        return other.ir if isinstance(other, Value) else self.ir.type(other)

    def _binary(self, op: str, other: Value | Number) -> Value:
        return Value(self.f, self.f.b.binary(op, self.ir, self.lift(other)))

    def _compare(self, op: str, other: Value | Number) -> Value:
        return Value(self.f, self.f.b.compare(op, self.ir, self.lift(other)))

    def __add__(self, other: Value | Number) -> Value:
        if self.ir.type.real:
            return self._binary("fadd", other)
        return self if other == 0 else self._binary("add", other)

    def __sub__(self, other: Value | Number) -> Value:
        return self._binary("fsub" if self.ir.type.real else "sub", other)

    def __mul__(self, other: Value | Number) -> Value:
        if other == 1:
            return self
        return self._binary("fmul" if self.ir.type.real else "mul", other)

    def __truediv__(self, other: Value | Number) -> Value:
        """The quotient of reals."""
        return self._binary("fdiv", other)

    def __rtruediv__(self, other: Number) -> Value:
        return Value(self.f, self.lift(other)) / self

    def __rsub__(self, other: Number) -> Value:
        return Value(self.f, self.lift(other)) - self

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Value | int) -> Value:
        """Integer quotient; both sides are never negative where konv uses it."""
        return self._binary("sdiv", other)

    def __mod__(self, other: Value | int) -> Value:
        return self._binary("srem", other)

    def __and__(self, other: Value | int) -> Value:
        return self._binary("and", other)

    def __or__(self, other: Value | int) -> Value:
        return self._binary("or", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._binary("xor", other)

    def __rshift__(self, other: Value | int) -> Value:
        return self._binary("lshr", other)

    def __lshift__(self, other: Value | int) -> Value:
        return self._binary("shl", other)

    def __lt__(self, other: Value | Number) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Value | Number) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Value | Number) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Value | Number) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Value | Number) -> Value:
        """Lane-wise ==; a method, so that Python's own == keeps meaning identity."""
        return self._compare("==", other)

    def differs(self, other: Value | Number) -> Value:
        """Lane-wise != of integers."""
        return self._compare("!=", other)

    def to_pointer(self, element: Type) -> Pointer:
        """This number as an address of elements."""
        return Pointer(self.f, self.f.b.convert("inttoptr", self.ir, PTR), element)


class Pointer(Value):
    """An address of elements of one type; offsets and lengths are counted in elements."""

    __slots__ = ("element",)

    def __init__(self, f: Numbers, value: Operand, element: Type) -> None:
        super().__init__(f, value)
        self.element = element

    def __add__(self, offset: Value | Number) -> Pointer:
        if isinstance(offset, int) and offset == 0:
            return self
        index = offset.ir if isinstance(offset, Value) else I64(offset)
        moved = self.f.b.move(self.ir, index, self.element)
        return Pointer(self.f, moved, self.element)

    def cast(self, element: Type) -> Pointer:
        """The same address, seen as elements of another type."""
        return Pointer(self.f, self.ir, element)

    def __getitem__(self, index: Value | int) -> Value:
        return self._load(self.element, index)

    def __setitem__(self, index: Value | int, value: Value | Number) -> None:
        if not isinstance(value, Value):
            value = Value(self.f, self.element(value))
        self.put(index, value)

    def pointer(self, index: Value | int, element: Type) -> Pointer:
        """The address stored at `index` of an array of addresses."""
        address = self.f.b.load(PTR, (self + index).ir, align=8)
        return Pointer(self.f, address, element)

    def address(self) -> Value:
        """The address as a number."""
        return Value(self.f, self.f.b.convert("ptrtoint", self.ir, I64))

    def vector(self, index: Value | int, lanes: int) -> Value:
        """Load `lanes` elements from `index` on; no alignment beyond the element's is assumed."""
        return self._load(vector(self.element, lanes), index)

    def _load(self, ty: Type, index: Value | int) -> Value:
        return Value(self.f, self.f.b.load(ty, (self + index).ir, SIZE[self.element]))

    def put(self, index: Value | int, value: Value) -> None:
        """Store a vector from `index` on."""
        self.f.b.store(value.ir, (self + index).ir, SIZE[self.element])


class Variable:
    """A mutable local. It stands on the stack in the IR; LLVM's SROA makes a register of it."""

    __slots__ = ("f", "slot", "type")

    def __init__(self, f: Numbers, initial: Value) -> None:
        self.f, self.type = f, initial.type
        with f.b.at_entry():
            self.slot = f.b.reserve(self.type.text)
        self.set(initial)

    def get(self) -> Value:
        return Value(self.f, self.f.b.recall(self.type, self.slot))

    def set(self, value: Value | Number) -> None:
        if not isinstance(value, Value):
            value = Value(self.f, self.type(value))
        self.f.b.assign(self.slot, value.ir)

    def add(self, value: Value | Number) -> None:
        self.set(self.get() + value)
